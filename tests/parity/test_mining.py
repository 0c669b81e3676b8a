"""Mining beside the real library's, on real texts and embeddings of a real model."""

import random
from functools import cache
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import sentence_transformers
import torch
from datasets import Dataset
from models import docstrings, real_model
from sentence_transformers.util import mine_hard_negatives as their_mining

from minist import SentenceTransformer
from minist.retrieval.mining import Options, mine_hard_negatives

pytestmark = pytest.mark.real_model


@cache
def models():
    folder = real_model("all-MiniLM-L6-v2")
    return SentenceTransformer(folder, device="cpu"), sentence_transformers.SentenceTransformer(
        str(folder), device="cpu"
    )


@cache
def kept_embeddings():
    """A folder for those of both libraries, so that the texts are embedded once and not for each test."""
    return TemporaryDirectory()


@cache
def texts(several):
    """Pairs of a docstring's first line and the line after; a corpus of other lines, with some of the positives in it.

    Without `several`, each query has one positive."""
    draw, pairs, lines = random.Random(0), [], []
    for text in docstrings():
        found = [line.strip() for line in text.splitlines() if len(line.split()) > 3]
        if len(found) > 1:
            pairs.append((found[0], found[1]))
            lines += found[2:4]
    pairs = draw.sample(list(dict.fromkeys(pairs)), 90)
    if several:  # the query of each third pair is that of the pair before
        pairs = [(pairs[i - 1][0] if i % 3 == 2 else query, positive) for i, (query, positive) in enumerate(pairs)]
    pairs = list({(several and positive) or query: (query, positive) for query, positive in pairs}.values())
    corpus = draw.sample(lines, 250) + [positive for _, positive in pairs[:20]]
    return [query for query, _ in pairs], [positive for _, positive in pairs], corpus


def flat(row):
    """Its texts and labels, in order, and its scores."""
    values = [value for key, value in row.items() if not key.startswith("score")]
    scores = [value for key, value in row.items() if key.startswith("score")]
    return values, np.hstack(scores) if scores else np.empty(0)


def check(several, scorer=None, with_corpus=True, **given):
    ours, theirs = models()
    queries, positives, corpus = texts(several)
    dataset = Dataset.from_dict({"query": queries, "positive": positives})
    corpus = corpus if with_corpus else None
    given |= {"cache_folder": kept_embeddings().name, "cross_encoder": scorer}
    found, _ = mine_hard_negatives(ours, queries, positives, corpus, Options(**given))
    wanted = their_mining(dataset, theirs, corpus=corpus, verbose=False, **given)
    assert len(found) == len(wanted) > 20
    for row, other in zip(found, wanted, strict=True):
        (values, scores), (their_values, their_scores) = flat(row), flat(other)
        assert values == their_values
        np.testing.assert_allclose(scores, their_scores, atol=1e-5)


OPTIONS = [
    {},
    {"num_negatives": 7},
    {"range_min": 3, "range_max": 20},
    {"max_score": 0.4},
    {"max_score": 0.5, "min_score": 0.2},
    {"min_score": 0.3},
    {"absolute_margin": 0.1},
    {"relative_margin": 0.05},
    {"relative_margin": 0.05, "absolute_margin": 0.03, "max_score": 0.6, "min_score": 0.05, "range_min": 1},
    {"query_prompt": "what is ", "corpus_prompt": "about "},
]
FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]


@pytest.mark.parametrize("several", [False, True], ids=["one positive", "several positives"])
@pytest.mark.parametrize("given", OPTIONS, ids=str)
def test_options(given, several):
    check(several, output_scores=True, **given)


@pytest.mark.parametrize("several", [False, True], ids=["one positive", "several positives"])
@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("output_format", FORMATS)
def test_formats(output_format, output_scores, several):
    check(several, output_format=output_format, output_scores=output_scores, relative_margin=0.1)


def test_positives_of_others_are_the_corpus():
    check(True, with_corpus=False, output_scores=True)


@pytest.mark.parametrize("given", [{}, {"num_negatives": 12, "output_scores": True}], ids=str)
def test_positives_in_the_ranking(given):
    check(True, include_positives=True, **given)


class Scorer:
    """A cross-encoder for either library: how many letters two texts share."""

    def predict(self, pairs, convert_to_tensor=False, **theirs):
        found = [len({*a} & {*b}) + len(b) / 1000 + sum(map(ord, b)) / 1e6 for a, b in pairs]
        return torch.tensor(found) if convert_to_tensor else np.array(found, np.float32)


@pytest.mark.parametrize("given", [{"max_score": 14.0}, {"absolute_margin": 2.0}, {"relative_margin": 0.2}], ids=str)
def test_a_cross_encoder(given):
    check(True, Scorer(), output_scores=True, **given)
