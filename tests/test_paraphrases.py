"""Paraphrases and parallel sentences against comparing everything, one pair at a time."""

import numpy as np
import pytest
import torch
from test_semantic_search import normal, recorded

from minist.retrieval import paraphrases as module
from minist.retrieval.paraphrases import mine_parallel, near_pairs, paraphrase_mining, paraphrase_pairs
from minist.similarity import cosine, euclidean, similarity


def slowly(x, top_k, max_pairs, name="cosine"):
    scores = similarity(name)(x, x).fill_diagonal_(-torch.inf)
    near = {
        (i, j) for i, line in enumerate(scores) for j in line.argsort(descending=True, stable=True)[:top_k].tolist()
    }
    pairs = {(min(i, j), max(i, j)) for i, j in near if i != j and scores[i, j] > -torch.inf}
    return sorted(pairs, key=lambda p: (-scores[p].item(), p))[:max_pairs]


def lines_of_codes(n, groups, width=48):
    """Small whole numbers in groups: many equal products, and exact ones."""
    draw = np.random.RandomState(0)
    rows = draw.randint(-3, 4, (groups, width))[draw.randint(groups, size=n)]
    return torch.from_numpy(rows + (draw.rand(n, width) < 0.05)).float()


def test_recorded_numbers():
    scores, pairs = paraphrase_pairs(normal(7, 30, 8), top_k=3, max_pairs=20)
    wanted = recorded("paraphrase_mining")
    assert pairs.tolist() == [pair for _, *pair in wanted]
    np.testing.assert_allclose(scores, [score for score, *_ in wanted], atol=1e-6)


@pytest.mark.parametrize("name", ["dot", "euclidean"])
@pytest.mark.parametrize(("top_k", "max_pairs"), [(1, 10), (3, 40), (5, 10_000), (200, 300)])
def test_against_comparing_everything(monkeypatch, name, top_k, max_pairs):
    monkeypatch.setattr(module, "ROWS", 16)
    monkeypatch.setattr(module, "COLUMNS", 24)
    x = lines_of_codes(150, 40)
    scores, pairs = paraphrase_pairs(x, top_k, max_pairs, 31, 17, name)
    wanted = slowly(x, top_k, max_pairs, name)
    values = [similarity(name)(x[i], x[j]).item() for i, j in wanted]
    np.testing.assert_allclose(scores, values, atol=1e-4)
    # of the pairs that score as the last does, any may be in; of the others each
    sure = [pair for pair, value in zip(wanted, values, strict=True) if value > values[-1]]
    assert pairs.tolist()[: len(sure)] == [list(pair) for pair in sure]


@pytest.mark.parametrize("size", [1, 3, 200])
def test_large_groups_of_equal_rows(monkeypatch, size):
    """Where far more pairs are near than `top_k` lets in, the short way prunes, or gives up."""
    x = normal(0, 400 // size, 40).repeat(size, 1)
    scores, pairs = paraphrase_pairs(x, 3, 60)
    monkeypatch.setattr(module, "near_enough", lambda *_: None)
    torch.testing.assert_close(scores, paraphrase_pairs(x, 3, 60)[0], atol=1e-5, rtol=0)
    assert (pairs[:, 0] < pairs[:, 1]).all() and len(pairs.unique(dim=0)) == 60


@pytest.mark.parametrize("least", [-0.2, 0.3, 0.9, 2.0])
@pytest.mark.parametrize("width", [3, 40])
def test_near_pairs(monkeypatch, least, width):
    monkeypatch.setattr(module, "ROWS", 16)
    monkeypatch.setattr(module, "COLUMNS", 24)
    x = torch.nn.functional.normalize(normal(0, 100, width), dim=1)
    x[7] = torch.nan
    x[8] = x[9]
    found = {(i, j): s for part in near_pairs(x, least) for s, i, j in zip(*(t.tolist() for t in part), strict=True)}
    scores = x @ x.T
    assert found.keys() == {(i, j) for i in range(100) for j in range(i + 1, 100) if scores[i, j] >= least}
    assert all(abs(s - scores[pair]) < 1e-6 for pair, s in found.items())


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n):
    scores, pairs = paraphrase_pairs(normal(0, n, 6))
    assert scores.shape == (n // 2,) and pairs.tolist() == [[0, 1]] * (n // 2)


@pytest.mark.parametrize("max_pairs", [5, 10_000])
def test_nan_is_near_to_nothing(max_pairs):
    x = normal(0, 60, 40)
    x[::3] = torch.nan
    for name in ("cosine", "dot", "euclidean", lambda a, b: euclidean(a, b)):
        scores, pairs = paraphrase_pairs(x, 10, max_pairs, similarity_name=name)
        assert len(pairs) and (pairs % 3 != 0).all() and scores.isfinite().all()


def test_of_a_model():
    class Model:
        def encode(self, texts, **options):
            return torch.tensor([[len(text), text.count("a")] for text in texts]).float()

    found = paraphrase_mining(Model(), ["aa", "bbb", "aaaa", "b"], top_k=1)
    assert sorted(pair for _, *pair in found) == [[0, 2], [1, 3]]
    assert found[0][0] == pytest.approx(1)


def margins_slowly(x, y, k, margin):
    """Every score of the paper's formula."""
    scores = cosine(x, y)
    of_x, of_y = (s.topk(k).values.mean(1) for s in (scores, scores.T))
    mean = (of_x[:, None] + of_y) / 2
    return {"ratio": scores / mean, "distance": scores - mean, "absolute": scores}[margin]


def translations(n=40, noise=0.3):
    x = normal(3, n, 16) + 2  # the sum has them all near to each other
    return x, (x + noise * normal(4, n, 16)).flip(0)


@pytest.mark.parametrize("retrieval", ["forward", "backward", "max", "intersect"])
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_margins(margin, retrieval):
    x, y = translations()
    scores, pairs = mine_parallel(x, y, 4, margin, retrieval)
    table = margins_slowly(x, y, 4, margin)
    torch.testing.assert_close(scores, table[pairs[:, 0], pairs[:, 1]], atol=1e-5, rtol=0)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert all(len(column.unique()) == len(pairs) for column in pairs.T)
    forward = [(i, int(table[i].argmax())) for i in range(40)]
    backward = [(int(table[:, j].argmax()), j) for j in range(40)]
    known = {"forward": forward, "backward": backward, "max": forward + backward}
    known["intersect"] = [pair for pair in forward if pair in backward]
    assert set(map(tuple, pairs.tolist())) <= set(known[retrieval])
    if retrieval == "intersect":
        assert len(pairs) == len(known[retrieval])
    assert np.mean([i + j == 39 for i, j in pairs.tolist()]) > 0.9


def test_where_both_directions_agree():
    x, y = translations(noise=2.0)
    table = margins_slowly(x, y, 40, "distance")  # k = 40: all are candidates
    forward, backward = table.argmax(1).tolist(), table.argmax(0).tolist()
    pairs = mine_parallel(x, y, 40, "distance", "intersect")[1]
    assert sorted(pairs.tolist()) == [[i, j] for i, j in enumerate(forward) if backward[j] == i]
    assert len(pairs) < len(mine_parallel(x, y, 40, "distance")[1])


def test_a_threshold_and_sentences_without_a_partner():
    x, y = translations()
    scores, pairs = mine_parallel(x, y[:30], threshold=1.02)
    assert scores.min() >= 1.02 and len(pairs) < 31
    assert len(mine_parallel(x, y[:0])[0]) == len(mine_parallel(x[:0], y)[0]) == 0
    x[5] = torch.nan
    assert 5 not in mine_parallel(x, y)[1][:, 0]
    with pytest.raises(ValueError, match="known are ratio, distance, absolute"):
        mine_parallel(x, y, margin="difference")
