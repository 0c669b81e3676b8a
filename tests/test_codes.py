"""Search among codes: what is decoded, what is scored again, and how many true neighbours are found."""

import numpy as np
import pytest
import torch
from test_semantic_search import normal

from minist.quantization import merge_ranges, quantize
from minist.retrieval.codes import search_codes
from minist.retrieval.search import search

CODES = ["int8", "uint8", "binary", "ubinary"]


def made(n=600, width=100, precision="int8"):
    """Embeddings of length 1 around some centres, queries near to some of them and codes; 100 is no multiple of 8."""
    x = normal(0, 20, width)[torch.arange(n) % 20] + normal(1, n, width)
    x = torch.nn.functional.normalize(x, dim=1)
    ranges = merge_ranges([x.numpy()])
    return x, x[:50] + 0.05 * normal(2, min(n, 50), width), quantize(x.numpy(), precision, ranges), ranges


def recall(found, wanted):
    return np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])


@pytest.mark.parametrize("precision", CODES)
def test_products_with_decoded_codes(precision, monkeypatch):
    monkeypatch.setattr("minist.retrieval.codes.DOCUMENTS", 77)
    x, queries, codes, ranges = made(precision=precision)
    scores, rows = search_codes(queries, codes, precision, 10, ranges)
    if "binary" in precision:
        decoded = torch.where(x > 0, 1.0, -1.0)
    else:
        steps = torch.from_numpy(codes.astype(np.float32) + 128 * (precision == "int8"))
        low, high = torch.from_numpy(ranges)
        decoded = low + steps * (high - low) / 255
        assert ((decoded - x).abs() <= (high - low) / 254).all()
    torch.testing.assert_close(scores, search(queries, decoded, 10, "dot")[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores, (queries @ decoded.T).gather(1, rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", CODES)
def test_scored_again_by_the_embeddings_on_disk(precision, tmp_path):
    x, queries, codes, ranges = made(precision=precision)
    np.save(tmp_path / "codes.npy", codes)
    np.save(tmp_path / "x.npy", x.half().numpy())
    codes, on_disk = (np.load(tmp_path / name, mmap_mode="r") for name in ("codes.npy", "x.npy"))
    wanted_scores, wanted = search(queries, x.half(), 10, "dot")
    first = search_codes(queries, codes, precision, 10, ranges)[1]
    few = search_codes(queries.numpy(), codes, precision, 10, ranges, 4, on_disk)[1]
    scores, rows = search_codes(queries, codes, precision, 10, ranges, 60, on_disk)  # 60 x 10: all
    assert torch.equal(rows, wanted)
    torch.testing.assert_close(scores, wanted_scores, atol=1e-5, rtol=0)
    assert recall(few, wanted) >= recall(first, wanted) and recall(few, wanted) > 0.9
    assert recall(first, wanted) > (0.5 if "binary" in precision else 0.95)


def test_only_candidates_are_read():
    class Watched:
        def __init__(self, x):
            self.x, self.read = x, 0

        def __getitem__(self, rows):
            self.read += np.size(rows)
            return self.x[rows]

    x, queries, codes, _ = made(precision="binary")
    watched = Watched(x.numpy())
    search_codes(queries[:3], codes, "binary", 5, None, 4, watched)
    assert watched.read == 3 * 5 * 4


def test_few_and_wrong():
    _, queries, codes, ranges = made(n=20)
    scores, rows = search_codes(queries[0], codes, "int8", 99, ranges)
    assert scores.shape == rows.shape == (1, 20) and rows.sort().values.tolist() == [list(range(20))]
    assert search_codes(queries, codes[:0], "int8", 5, ranges)[1].shape == (len(queries), 0)
    with pytest.raises(ValueError, match="ranges"):
        search_codes(queries, codes, "int8")
    with pytest.raises(ValueError, match=r"wanted are minimum and maximum, \[2, 100\]"):
        search_codes(queries, codes, "int8", 5, ranges[:, :7])
    with pytest.raises(ValueError, match="the width of the codes is 100: use a number at least 13 and at most 13"):
        search_codes(queries, codes, "binary")
    with pytest.raises(ValueError, match="precision is 'int4'"):
        search_codes(queries, codes, "int4")


def test_equal_scores():
    x, queries, codes, ranges = made(n=30)
    codes, floats = np.concatenate([codes[9:], codes, codes]), np.concatenate([x[9:], x, x])
    rows = search_codes(queries, codes, "int8", 90, ranges, 1, floats)[1]
    for row, copy in [(5 + 21, 5 + 51), (12 - 9, 12 + 21), (12 + 21, 12 + 51)]:
        assert ((rows == row).nonzero()[:, 1] < (rows == copy).nonzero()[:, 1]).all()


def test_nan_never_wins():
    x, queries, codes, _ = made(precision="ubinary")
    x[0] = torch.nan
    scores, rows = search_codes(queries, codes, "ubinary", 10, None, 60, x.numpy())
    assert (rows != 0).all() and not scores.isnan().any()
    queries[1] = torch.nan
    scores, rows = search_codes(queries, codes, "ubinary", 10)
    assert scores[1].isinf().all() and rows[1].tolist() == list(range(10))
