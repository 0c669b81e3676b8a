"""Evaluators beside the real ones: the same metrics under the same names."""

from unittest.mock import Mock

import numpy as np
import pytest
import pytrec_eval
import torch
from models import DATA
from sentence_transformers import SentenceTransformer as Real
from sentence_transformers.sentence_transformer import evaluation as real
from sentence_transformers.util import SimilarityFunction, cos_sim, dot_score
from sentence_transformers.util.quantization import quantize_embeddings
from tiny import write_jsonl

from minist import SentenceTransformer
from minist.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    NanoBEIREvaluator,
    ParaphraseMiningEvaluator,
    RerankingEvaluator,
    SequentialEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)

SIMILARITIES = ["cosine", "dot", "euclidean", "manhattan"]


class Table:
    """Stands for a model of both libraries: the embedding of a text is looked up."""

    def __init__(self, embeddings, similarity):
        self.embeddings = embeddings
        self.similarity_name = self.similarity_fn_name = similarity
        self.similarity = SimilarityFunction.to_similarity_fn(similarity)
        self.model_card_data = Mock()  # the real evaluators note their results there

    gives = "embeddings"

    def encode(self, texts, *, convert_to_tensor=False, convert_to_numpy=True, truncate_dim=None, **options):
        found = np.stack([self.embeddings[text] for text in texts])[:, :truncate_dim]
        if options.get("normalize_embeddings"):
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        if options.get("precision"):
            found = quantize_embeddings(found, options["precision"])
        if not convert_to_numpy and not convert_to_tensor:
            return list(torch.from_numpy(found))
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


# ---------------------------------------------------------------- the others, on vectors of whole numbers: many ties


def texts(what, n):
    return [f"{what} {i}" for i in range(n)]


CASES = [(seed, whole) for seed in range(4) for whole in (False, True)]


def drawn(seed, whole, *columns):
    random = np.random.default_rng(seed)
    return random, random_table(
        random, [text for column in columns for text in column], whole, "dot" if whole else "cosine"
    )


def some(whole):
    """Similarities whose ties are exact: cosines of whole numbers are rounded in some order."""
    return ["dot", "manhattan"] if whole else SIMILARITIES


@pytest.mark.parametrize("seed, whole", CASES)
@pytest.mark.parametrize("dim", [None, 4])
def test_binary_classification(seed, whole, dim):
    first, second = texts("first", 40), texts("second", 40)
    random, table = drawn(seed, whole, first, second)
    labels = random.integers(0, 2, 40).tolist() if seed else [0] * 40
    options = {"similarity_fn_names": some(whole), "truncate_dim": dim, "name": "x"}
    theirs = real.BinaryClassificationEvaluator(first, second, labels, write_csv=False, **options)
    check_same(BinaryClassificationEvaluator(first, second, labels, **options)(table), theirs(table))


@pytest.mark.parametrize("seed, whole", CASES)
@pytest.mark.parametrize("margin", [None, 0.5, {"dot": 1.0, "cosine": 0.1, "euclidean": 0.2, "manhattan": 2.0}])
def test_triplets(seed, whole, margin):
    columns = [texts(name, 30) for name in ("anchor", "positive", "negative")]
    _, table = drawn(seed, whole, *columns)
    theirs = real.TripletEvaluator(*columns, margin=margin, similarity_fn_names=some(whole), write_csv=False)
    ours = TripletEvaluator(*columns, margin=margin or 0.0, similarity_fn_names=some(whole))
    check_same(ours(table), theirs(table))


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dim", [None, 4])
def test_embedding_similarity_of_codes(precision, dim):
    first, second = texts("first", 120), texts("second", 120)
    random, table = drawn(0, False, first, second)
    scores = random.integers(0, 6, 120).tolist()
    options = {"similarity_fn_names": SIMILARITIES, "precision": precision, "truncate_dim": dim}
    theirs = real.EmbeddingSimilarityEvaluator(first, second, scores, write_csv=False, **options)
    check_same(EmbeddingSimilarityEvaluator(first, second, scores, **options)(table), theirs(table))


@pytest.mark.parametrize("seed, whole", CASES)
@pytest.mark.parametrize("at_k", [1, 3, 10])
def test_reranking(seed, whole, at_k):
    """MRR of equal scores is left aside: there theirs takes any order."""
    documents, queries = texts("document", 60), texts("query", 12)
    random, table = drawn(seed, whole, documents, queries)
    samples = []
    for query in queries:
        chosen = random.choice(documents, random.integers(2, 12), replace=False).tolist()
        cut = random.integers(0, len(chosen) + 1)  # some have no positive, or no negative
        samples.append({"query": query, "positive": chosen[:cut], "negative": chosen[cut:]})
    # products of whole numbers are equal or not on all processors; cosines of parallel vectors are by rounding alone
    fct, name = (dot_score, "dot") if whole else (cos_sim, "cosine")
    theirs = real.RerankingEvaluator(samples, at_k=at_k, name="x", similarity_fct=fct, write_csv=False)(table)
    ours = RerankingEvaluator(samples, at_k=at_k, name="x", similarity_fct=name)(table)
    if whole:
        del ours[f"x_mrr@{at_k}"], theirs[f"x_mrr@{at_k}"]
    check_same(ours, theirs)


FEW = {"top_k": 3, "max_pairs": 40, "corpus_chunk_size": 11, "query_chunk_size": 7}


# with ties, which of equal pairs are among so few is free
@pytest.mark.parametrize(
    "seed, whole, limits", [*((*case, {}) for case in CASES), *((i, False, FEW) for i in range(4))]
)
@pytest.mark.parametrize("closure", [False, True])
def test_paraphrase_mining(seed, whole, limits, closure):
    given = texts("text", 40)
    random, table = drawn(seed, False, given)
    if whole:  # lengths one, so that equal cosines are equal floats
        axes = np.eye(6, dtype=np.float32)
        table.embeddings = {text: axes[random.integers(0, 6)] for text in given}
    pairs = [tuple(random.choice(given, 2).tolist()) for _ in range(15)] + [("text 1", "elsewhere")]
    sentences, options = {text: text for text in given}, {"add_transitive_closure": closure, "name": "x", **limits}
    theirs = real.ParaphraseMiningEvaluator(sentences, pairs, write_csv=False, **options)
    check_same(ParaphraseMiningEvaluator(sentences, pairs, **options)(table), theirs(table))


@pytest.mark.parametrize("seed, whole", CASES)
def test_translation_and_mse_and_all_in_sequence(seed, whole):
    first, second = texts("first", 30), texts("second", 30)
    second[4] = second[9]  # equal translations
    _, table = drawn(seed, whole, first, second)
    if whole:  # equal cosines are equal floats
        axes = np.eye(6, dtype=np.float32)
        table.embeddings = {text: axes[int(value.sum()) % 6] for text, value in table.embeddings.items()}
    theirs = [real.TranslationEvaluator(first, second, name="t", write_csv=False)]
    theirs += [real.MSEEvaluator(first, second, teacher_model=table, name="m", write_csv=False, truncate_dim=4)]
    ours = [TranslationEvaluator(first, second, "t"), MSEEvaluator(first, second, table, "m", 4)]
    for one, other in zip(ours, theirs, strict=True):
        assert one(table) == pytest.approx(other(table), rel=1e-5)
    # the name of a primary metric lacks the prefix in theirs, until the first call
    assert SequentialEvaluator(ours)(table) == pytest.approx(real.SequentialEvaluator(theirs)(table), rel=1e-5)


# ---------------------------------------------------------------- retrieval in parts, and several collections


@pytest.mark.parametrize("chunk", [1, 7, 13, 1000])
def test_information_retrieval_in_chunks(chunk, tmp_path):
    """Several similarities, ties across chunks, fewer dimensions, predictions."""
    random = np.random.default_rng(chunk)
    collection = random_collection(random, 60)
    table = random_table(random, [*collection[0].values(), *collection[1].values()], True, "dot")
    names = {name: SimilarityFunction.to_similarity_fn(name) for name in ("dot", "manhattan")}
    options = {"corpus_chunk_size": chunk, "truncate_dim": 4, "name": "x"}
    evaluator = real.InformationRetrievalEvaluator(
        *collection, score_functions=names, write_predictions=True, write_csv=False, **options
    )
    file = tmp_path / "ours.jsonl"
    ours = InformationRetrievalEvaluator(
        *collection, similarity_fn_names=list(names), write_predictions=str(file), **options
    )
    check_same(ours(table), evaluator(table, output_path=str(tmp_path)))
    assert ours.primary_metric == evaluator.primary_metric
    for name in names:
        theirs = tmp_path / f"Information-Retrieval_evaluation_x_predictions_{name}.jsonl"
        assert (tmp_path / f"ours_{name}.jsonl").read_text() == theirs.read_text()


class Rows(list):
    """Stands for a data set of Hugging Face: a list of rows, with columns by name."""

    @property
    def column_names(self):
        return list(self[0])


@pytest.mark.parametrize("dim", [None, 3])
def test_nano_beir(tmp_path, monkeypatch, dim):
    random, sets, given = np.random.default_rng(0), {}, []
    for name in ("NanoMSMARCO", "NanoNQ"):
        queries, corpus, relevant = random_collection(random, 50)
        queries, corpus = ({i: f"{name} {t}" for i, t in side.items()} for side in (queries, corpus))
        given += [*queries.values(), *corpus.values()]
        judged = [{"query-id": q, "corpus-id": d} for q, ids in relevant.items() for d in sorted(ids)]
        rows = [[{"_id": i, "text": text} for i, text in side.items()] for side in (queries, corpus)]
        sets[name] = {"queries": Rows(rows[0]), "corpus": Rows(rows[1]), "qrels": Rows(judged)}
        (tmp_path / name / "qrels").mkdir(parents=True)
        for part in ("queries", "corpus"):
            write_jsonl(tmp_path / name / f"{part}.jsonl", sets[name][part])
        lines = "".join(f"{row['query-id']}\t{row['corpus-id']}\n" for row in judged)
        (tmp_path / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\n" + lines)
    table = random_table(random, given, False, "cosine")
    kind = real.NanoBEIREvaluator
    monkeypatch.setattr(kind, "_load_dataset_subset_split", lambda self, subset, split, **_: sets[split][subset])
    theirs = kind(["msmarco", "nq"], truncate_dim=dim, ndcg_at_k=[5], write_csv=False)(table)
    ours = NanoBEIREvaluator(tmp_path, ["msmarco", "nq"], truncate_dim=dim, ndcg_at_k=[5])
    check_same(ours(table), theirs)


@pytest.mark.parametrize("seed", range(5))
def test_graded_rankings_beside_trec_eval(seed):
    """Without ties; pytrec_eval has MAP and MRR of the whole ranking, so k is more than all documents."""
    random = np.random.default_rng(seed)
    queries, corpus, relevant = random_collection(random, 80)
    graded = {q: {d: int(random.integers(0, 4)) for d in ids} for q, ids in relevant.items()}
    graded = {q: ids for q, ids in graded.items() if any(ids.values())}
    table = random_table(random, [*queries.values(), *corpus.values()], False, "dot")
    ks, depth = [1, 3, 5, 10, 30], 100
    ours = InformationRetrievalEvaluator(
        queries, corpus, graded, precision_recall_at_k=ks, ndcg_at_k=ks, mrr_at_k=[depth], map_at_k=[depth]
    )(table)
    scores = table.encode_query(list(queries.values())) @ table.encode_document(list(corpus.values())).T
    run = {q: dict(zip(corpus, map(float, row), strict=True)) for q, row in zip(queries, scores, strict=True)}
    cuts = ",".join(map(str, ks))
    measures = {f"{name}.{cuts}" for name in ("ndcg_cut", "P", "recall")} | {f"map_cut.{depth}", "recip_rank"}
    found = pytrec_eval.RelevanceEvaluator(graded, measures).evaluate({q: run[q] for q in graded})
    means = {name: np.mean([of[name] for of in found.values()]) for name in next(iter(found.values()))}
    for k in ks:
        for name, theirs in (("ndcg", "ndcg_cut"), ("precision", "P"), ("recall", "recall")):
            assert ours[f"dot_{name}@{k}"] == pytest.approx(means[f"{theirs}_{k}"], abs=1e-6)
    assert ours[f"dot_map@{depth}"] == pytest.approx(means[f"map_cut_{depth}"], abs=1e-6)
    assert ours[f"dot_mrr@{depth}"] == pytest.approx(means["recip_rank"], abs=1e-6)
