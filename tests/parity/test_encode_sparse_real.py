"""encode.py beside the real library's SparseEncoder: the same sparse embedding for every line, read by scipy."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import sentence_transformers
from models import docstrings, real_model
from tiny import run_script

from minist import SparseEncoder

TEXTS = ["", "  ", "猫がマットの上に座っている。", "e\u0301 is two characters", '"quoted" \\ and {"a": 1}', "a" * 300]


@pytest.mark.real_model
def test_splade_tiny(tmp_path, monkeypatch):
    """A plain checkpoint: .npz says that sparse embeddings are wanted, for .jsonl it is saved as a SparseEncoder."""
    monkeypatch.chdir(tmp_path)
    folder, texts = real_model("splade-tiny"), [*TEXTS, *(" ".join(text.split()) for text in islice(docstrings(), 60))]
    Path("t.txt").write_text("".join(text + "\n" for text in texts), "utf-8")
    SparseEncoder(folder).save("saved")
    for output, model in (("out.npz", folder), ("out.jsonl", "saved")):
        code, _, err = run_script("encode.py", "t.txt", "--model", model, "--output", output, "--device", "cpu")
        assert (code, err) == (0, "")
    theirs = sentence_transformers.SparseEncoder(str(folder), device="cpu")
    wanted = theirs.encode(texts, convert_to_sparse_tensor=False).cpu().numpy()
    found = scipy.sparse.load_npz("out.npz")
    assert (found.format, found.shape, found.dtype) == ("csr", wanted.shape, np.float32)
    assert found.has_canonical_format
    np.testing.assert_allclose(found.toarray(), wanted, atol=1e-5, rtol=0)
    names = theirs.tokenizer.convert_ids_to_tokens(range(wanted.shape[1]))
    for line, row in zip(Path("out.jsonl").read_text("utf-8")[:-1].split("\n"), found.toarray(), strict=True):
        assert json.loads(line) == {names[i]: pytest.approx(row[i], abs=1e-6) for i in row.nonzero()[0]}
