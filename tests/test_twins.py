"""Contrastive tension's two copies."""

import numpy as np
import torch
from tiny import sentences, tiny_model

from minist.models.sentence_transformer import SentenceTransformer
from minist.training.start import FIRST, SECOND, keep_one, make_twins

TEXTS = sentences(5)


def test_two_copies_that_start_alike_and_part(tmp_path):
    model = tiny_model()
    model.prompts = {"query": "read: ", "document": ""}
    model.settings["of_others"] = [1]
    before = model.encode(TEXTS)
    twins = make_twins(model)
    for role in (FIRST, SECOND, "query", None):
        expected = before if role != "query" else model.encode_query(TEXTS)
        np.testing.assert_allclose(twins.encode(TEXTS, role=role), expected, atol=1e-6, rtol=0)
    twins.stack.router.routes[FIRST][0].layers[0].up.bias.data += 1
    assert not np.allclose(twins.encode(TEXTS, role=FIRST), before)
    np.testing.assert_allclose(keep_one(twins).encode(TEXTS), before, atol=1e-6, rtol=0)

    twins.save(tmp_path / "twins")  # as a checkpoint does
    again = SentenceTransformer(tmp_path / "twins")
    for role in (FIRST, SECOND, "document"):
        np.testing.assert_allclose(again.encode(TEXTS, role=role), twins.encode(TEXTS, role=role), atol=1e-6, rtol=0)
    kept = keep_one(again)
    assert (kept.routes, kept.prompts, kept.settings["of_others"]) == ((), model.prompts, [1])
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), keep_one(twins).parameters(), strict=True))
