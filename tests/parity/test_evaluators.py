"""Evaluators beside the real ones: the same metrics under the same names."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from models import DATA
from sentence_transformers import SentenceTransformer as Real
from sentence_transformers.sentence_transformer import evaluation as real
from sentence_transformers.util import SimilarityFunction

from minist import SentenceTransformer
from minist.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator

SIMILARITIES = ["cosine", "dot", "euclidean", "manhattan"]


class Table:
    """Stands for a model of both libraries: the embedding of a text is looked up."""

    def __init__(self, embeddings, similarity):
        self.embeddings = embeddings
        self.similarity_name = self.similarity_fn_name = similarity
        self.similarity = SimilarityFunction.to_similarity_fn(similarity)
        self.model_card_data = Mock()  # the real evaluators note their results there

    def encode(self, texts, *, convert_to_tensor=False, **options):
        found = np.stack([self.embeddings[text] for text in texts])
        return torch.from_numpy(found) if convert_to_tensor else found

    encode_query = encode_document = encode


def check_same(ours, theirs):
    assert ours == pytest.approx(theirs, abs=1e-6)


def random_table(random, texts, whole_numbers, similarity):
    """Whole numbers give many equal scores."""
    shape = (len(texts), 6)
    values = random.integers(-1, 2, shape) if whole_numbers else random.standard_normal(shape)
    return Table(dict(zip(texts, values.astype(np.float32), strict=True)), similarity)


# ---------------------------------------------------------------- information retrieval


def random_collection(random, size):
    queries = {f"q{i}": f"query {i}" for i in range(12)}
    ids = [f"d{i}" for i in random.permutation(size)]  # as text d10 comes before d2
    corpus = {i: f"document {i}" for i in ids}
    relevant = {q: {str(i) for i in random.choice(ids, random.integers(1, 6))} for q in queries}
    relevant["q3"] = set()  # a query without any is left out, and so is one that is not named
    del relevant["q4"]
    relevant["q5"].add("elsewhere")  # relevant, but not in the corpus
    return queries, corpus, relevant


# equal dot products of whole numbers are equal floats in any order of summation; those of cosines are not
@pytest.mark.parametrize("similarity, whole_numbers", [*((s, False) for s in SIMILARITIES), ("dot", True)])
@pytest.mark.parametrize("size", [7, 40, 150])  # fewer documents than the deepest metrics look at, and more
@pytest.mark.parametrize("name", ["", "heldout"])
def test_information_retrieval(size, similarity, whole_numbers, name):
    for seed in range(3):
        random = np.random.default_rng(seed)
        collection = random_collection(random, size)
        texts = [*collection[0].values(), *collection[1].values()]
        table = random_table(random, texts, whole_numbers, similarity)
        evaluator = real.InformationRetrievalEvaluator(*collection, name=name, write_csv=False)
        check_same(InformationRetrievalEvaluator(*collection, name)(table), evaluator(table))


def test_information_retrieval_at_other_depths():
    random = np.random.default_rng(0)
    collection = random_collection(random, 60)
    table = random_table(random, [*collection[0].values(), *collection[1].values()], True, "dot")
    ours = InformationRetrievalEvaluator(
        *collection,
        accuracy_at_k=(2, 7),
        precision_recall_at_k=(4,),
        mrr_at_k=(1, 20),
        ndcg_at_k=(3, 30),
        map_at_k=(5, 50),
    )
    evaluator = real.InformationRetrievalEvaluator(
        *collection,
        accuracy_at_k=[2, 7],
        precision_recall_at_k=[4],
        mrr_at_k=[1, 20],
        ndcg_at_k=[3, 30],
        map_at_k=[5, 50],
    )
    check_same(ours(table), evaluator(table))


# ---------------------------------------------------------------- similarity


@pytest.mark.parametrize("similarities", [None, ["dot"], ["euclidean", "cosine"], SIMILARITIES])
@pytest.mark.parametrize("name", ["", "sts"])
def test_embedding_similarity(similarities, name):
    for seed in range(3):
        random = np.random.default_rng(seed)
        first, second = [f"first {i}" for i in range(30)], [f"second {i}" for i in range(30)]
        scores = random.integers(0, 6, 30).tolist()  # many are equal
        table = random_table(random, first + second, False, SIMILARITIES[seed])
        ours = EmbeddingSimilarityEvaluator(first, second, scores, name, similarities)
        evaluator = real.EmbeddingSimilarityEvaluator(
            first, second, scores, similarity_fn_names=similarities, name=name, write_csv=False
        )
        check_same(ours(table), evaluator(table))


def test_embedding_similarity_with_equal_predictions():
    random = np.random.default_rng(0)
    first, second = [f"first {i}" for i in range(40)], [f"second {i}" for i in range(40)]
    scores = random.uniform(size=40).tolist()
    table = random_table(random, first + second, True, "dot")
    evaluator = real.EmbeddingSimilarityEvaluator(first, second, scores, write_csv=False)
    check_same(EmbeddingSimilarityEvaluator(first, second, scores)(table), evaluator(table))


# ---------------------------------------------------------------- with a model


@pytest.mark.parametrize("name", ["st6/dense", "st6/dense2"])  # a query prompt; dot product, truncate_dim
def test_of_a_saved_model(name):
    folder = DATA / "folders" / name
    model, real_model = SentenceTransformer(folder, device="cpu"), Real(str(folder), device="cpu")
    words = ["the cat", "sat", "zebra quiz", "a, b", "quiz?", "the zebra sat", "b c d", "e"]
    collection = (
        {f"q{i}": f"{word} the" for i, word in enumerate(words)},
        {f"d{i}": word for i, word in enumerate(words)},
        {f"q{i}": {f"d{i}", f"d{(3 * i) % 8}"} for i in range(8)},
    )
    evaluator = real.InformationRetrievalEvaluator(*collection, write_csv=False)
    check_same(InformationRetrievalEvaluator(*collection)(model), evaluator(real_model))
    # no pair twice, in either order: of what is equal but for rounding, the order would be chance
    pairs = (words, words[1:] + words[:1], [0.1 * i for i in range(8)])
    evaluator = real.EmbeddingSimilarityEvaluator(*pairs, write_csv=False)
    check_same(EmbeddingSimilarityEvaluator(*pairs)(model), evaluator(real_model))
