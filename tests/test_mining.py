"""Mining against its definition, told in plain Python with one query at a time and all documents sorted."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from tiny import sentences, tiny_model

from minist.retrieval import mining
from minist.retrieval.mining import FORMATS, Block, Options, block_sizes, choose, mine_hard_negatives
from minist.similarity import SIMILARITIES


class Table:
    """A model that looks its embeddings up; a prompt turns them round."""

    device, out_width = torch.device("cpu"), 3

    gives = "embeddings"

    def __init__(self, vectors, similarity_name="cosine"):
        self.vectors, self.similarity_name = vectors, similarity_name

    def find_prompt(self, name, prompt, role):
        return {"turn": "turn: "}[name] if name else prompt or ""

    def embed(self, texts, prompt, batch_tokens, done, role):
        found = torch.tensor(np.array([self.vectors[text] for text in texts]), dtype=torch.float32)
        return (-found if prompt else found) * 2.5, 0


class Scorer:
    """A cross-encoder whose scores are few, so that many are equal; each query and document has one."""

    def __init__(self):
        self.asked = Counter()

    @staticmethod
    def score(query, document):
        return (sum(map(ord, query + document)) % 7 - 3) / 2

    def predict(self, pairs):
        self.asked.update(pairs)
        return np.array([self.score(*pair) for pair in pairs], np.float32)


def mine(model, queries, positives, corpus, **given):
    return mine_hard_negatives(model, queries, positives, corpus, Options(**given))


def make_data(seed, kind):
    """Queries that stand several times, pairs too; a corpus with texts twice, and with some of the positives."""
    draw = random.Random(seed)
    vectors = {}
    for text in [f"{kind}{i}" for kind in "qd" for i in range(40)]:
        units = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0)]
        vector = draw.choice(units) if kind == "ties" else [draw.gauss(0, 1) for _ in range(3)]
        vectors[text] = np.array(vector, float) / np.linalg.norm(vector)
    queries = [f"q{draw.randrange(12)}" for _ in range(20)]
    positives = [f"d{draw.randrange(16)}" for _ in range(20)]
    corpus = [f"d{draw.randrange(40)}" for _ in range(30)]
    return vectors, [*queries, queries[0]], [*positives, positives[0]], corpus


PLAIN = {
    "cosine": lambda a, b: float(a @ b),
    "dot": lambda a, b: float(a @ b),
    "euclidean": lambda a, b: -float(np.sqrt(((a - b) ** 2).sum())),
    "manhattan": lambda a, b: -float(np.abs(a - b).sum()),
}


def slowly(vectors, queries, positives, corpus, name, cross_encoder=None, **given):
    """The definition. Returns rows as (query, positives, scores of these, negatives, scores of these)."""
    n, start, end = given.get("num_negatives", 3), given.get("range_min", 0), given.get("range_max")
    own = {}
    for query, positive in zip(queries, positives, strict=True):
        own.setdefault(query, [])
        own[query] += [positive] if positive not in own[query] else []
    most = max(map(len, own.values()))
    if end is None:
        limits = {"max_score", "absolute_margin", "relative_margin"} & given.keys()
        end = start + n * (10 if limits or cross_encoder else 1) + most
    documents = list(dict.fromkeys([*(corpus or []), *positives]))
    draw = random.Random(given.get("seed", 0))
    sign_q, sign_d = (-1 if f"{side}_prompt" in given or f"{side}_prompt_name" in given else 1 for side in PROMPTED)
    result = []
    for query, golds in own.items():
        score = {d: PLAIN[name](sign_q * vectors[query], sign_d * vectors[d]) for d in documents}
        near = ordered(documents, score)[: end + most]
        if cross_encoder:
            score = {d: cross_encoder.score(query, d) for d in documents}
            near = [d for d in ordered(documents, score) if d in near]
        lowest = min(score[gold] for gold in golds)
        left = [d for d in near if given.get("include_positives") or d not in golds]
        left = [d for d in left if d != query or d in golds]
        left = [d for d in left if score[d] <= given.get("max_score", 9) and score[d] >= given.get("min_score", -9)]
        if "absolute_margin" in given:
            left = [d for d in left if score[d] + given["absolute_margin"] <= lowest]
        if "relative_margin" in given:
            left = [d for d in left if score[d] <= lowest - abs(lowest) * given["relative_margin"]]
        left = left[start:end]
        if given.get("sampling_strategy") == "random":
            drawn = draw.sample(range(len(left)), min(n, len(left)))
            left = [left[i] for i in sorted(drawn)]
        chosen = left[:n]
        result.append((query, golds, [score[g] for g in golds], chosen, [score[d] for d in chosen]))
    return result


def ordered(documents, score):
    return sorted(documents, key=lambda d: -score[d])  # stable: of equal ones the first stays first


PROMPTED = ("query", "corpus")


def rows_of(found, output_format, n, with_scores):
    """Rows of the definition's result, written otherwise than in the product."""
    for query, golds, gold_scores, chosen, scores in found:
        if output_format == "labeled-pair":
            for text, label, score in [
                *((g, 1, s) for g, s in zip(golds, gold_scores, strict=True)),
                *((d, 0, s) for d, s in zip(chosen, scores, strict=True)),
            ]:
                yield [("query", query), ("document", text), ("score", score) if with_scores else ("label", label)]
            continue
        if output_format == "reranking":
            tail = [("scores", scores)] if with_scores else []
            yield [("query", query), ("positive", golds), ("documents", chosen), *tail]
            continue
        for gold, gold_score in zip(golds, gold_scores, strict=True):
            head, both = [("query", query), ("positive", gold)], [gold_score, *scores]
            tail = [("scores", both)] if with_scores else []
            if output_format == "triplet":
                for text, score in zip(chosen, scores, strict=True):
                    yield [*head, ("negative", text), *([("scores", [gold_score, score])] if with_scores else [])]
            elif output_format == "n-tuple" and len(chosen) == n:
                yield [*head, *((f"negative_{i}", text) for i, text in enumerate(chosen, 1)), *tail]
            elif output_format == "labeled-list" and chosen:
                labels = [("labels", [1] + [0] * len(chosen))]
                yield [head[0], ("documents", [gold, *chosen]), *(tail or labels)]


def texts_of(row):
    return [(key, value) for key, value in row if not key.startswith("score")]


def check(data, name="cosine", output_format="triplet", output_scores=False, scorer=None, **given):
    """Mines, and compares rows, keys in their order, scores, and the counts of the summary."""
    vectors, queries, positives, corpus = data
    ranked = {"include_positives": True} if output_format == "reranking" else {}
    found = slowly(vectors, queries, positives, corpus, name, scorer, **given | ranked)
    shape = "n-tuple" if given.get("include_positives") and not ranked else output_format
    n = given.get("num_negatives", 3)
    options = {"output_format": output_format, "output_scores": output_scores, "cross_encoder": scorer}
    rows, summary = mine(Table(vectors, name), queries, positives, corpus, **options, **given)
    wanted = list(rows_of(found, shape, n, output_scores))
    assert [texts_of(row.items()) for row in rows] == [texts_of(row) for row in wanted]
    assert [list(row) for row in rows] == [[key for key, _ in row] for row in wanted]
    for ours, theirs in zip(rows, map(dict, wanted), strict=True):
        for key in {"score", "scores"} & ours.keys():
            np.testing.assert_allclose(ours[key], theirs[key], atol=1e-5)
    kept = [len(chosen) for *_, chosen, _ in found]
    assert (summary.rows, summary.kept, summary.queries) == (len(rows), sum(kept), len(found))
    assert (summary.lacking, summary.without) == (sum(k < n for k in kept), kept.count(0))
    return rows, summary


OPTIONS = [
    {},
    {"num_negatives": 1},
    {"num_negatives": 99},
    {"range_min": 4},
    {"range_max": 3},
    {"range_min": 2, "range_max": 6},
    {"max_score": 0.45},
    {"min_score": -0.35},
    {"max_score": 0.7, "min_score": -0.7},
    {"absolute_margin": 0.3},
    {"relative_margin": 0.15},
    {"absolute_margin": 0.1, "relative_margin": 0.4, "max_score": 0.6, "min_score": -0.9, "range_min": 1},
    {"absolute_margin": 1.0},  # with ties, scores that are equal to the limit: they stay
    {"relative_margin": 1.0},
    {"max_score": 0.0},
    {"min_score": 0.0},
    {"sampling_strategy": "random"},
    {"sampling_strategy": "random", "seed": 7, "range_max": 9, "relative_margin": 0.05},
    {"include_positives": True, "num_negatives": 6},
    {"include_positives": True, "num_negatives": 2, "max_score": 0.5},
    {"query_prompt": "turn: "},
    {"corpus_prompt": "turn: ", "query_prompt_name": "turn"},
    {"corpus_prompt_name": "turn"},
]


@pytest.mark.parametrize("kind", ["ties", "any"])
@pytest.mark.parametrize("given", OPTIONS, ids=str)
def test_every_option(given, kind):
    for seed in range(2):
        data = make_data(seed, kind)
        for output_format, output_scores in itertools.product(FORMATS, [False, True]):
            check(data, output_format=output_format, output_scores=output_scores, **given)
        check((*data[:3], None), **given)  # the positives of others are the whole corpus
        check(data, scorer=Scorer(), output_scores=True, **given)


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("kind", ["ties", "any"])
def test_every_similarity(name, kind):
    for seed, given in itertools.product(range(3), [{}, {"absolute_margin": 0.2}, {"relative_margin": 0.15}]):
        check(make_data(seed, kind), name, output_scores=True, **given)


def drawn_options(draw):
    """Any of the options together."""
    limits = {"max_score": 0.65, "min_score": -0.85, "absolute_margin": 0.05, "relative_margin": 0.2}
    given = {key: value for key, value in limits.items() if draw.random() < 0.3}
    given |= {"num_negatives": draw.choice([1, 2, 5]), "range_min": draw.choice([0, 0, 1, 3])}
    given |= (
        {"range_max": given["range_min"] + given["num_negatives"] + draw.randrange(9)} if draw.random() < 0.4 else {}
    )
    given |= {"sampling_strategy": "random", "seed": draw.randrange(9)} if draw.random() < 0.4 else {}
    given |= {"include_positives": True} if draw.random() < 0.3 else {}
    given |= {f"{draw.choice(PROMPTED)}_prompt": "turn: "} if draw.random() < 0.2 else {}
    return given


@pytest.mark.parametrize("seed", range(120))
def test_options_together(seed, monkeypatch):
    """In blocks of a few queries and a few documents, which make no difference."""
    draw = random.Random(seed)
    monkeypatch.setattr(mining, "QUERIES", draw.choice([1, 5, 1024]))
    monkeypatch.setattr(mining, "SCORE_BYTES", draw.choice([24, 2**15]))
    monkeypatch.setattr(mining, "DOCUMENTS", draw.choice([1, 8, 256]))
    monkeypatch.setattr(mining, "PAIRS", draw.choice([1, 4, 4096]))
    check(
        make_data(seed, draw.choice(["ties", "any"])),
        draw.choice(list(SIMILARITIES)),
        draw.choice(list(FORMATS)),
        draw.random() < 0.5,
        Scorer() if draw.random() < 0.3 else None,
        memory_mb=1,
        **drawn_options(draw),
    )


# ---------------------------------------------------------------- what follows from the definition


@pytest.mark.parametrize("given", [{}, {"sampling_strategy": "random"}, {"num_negatives": 99}], ids=str)
def test_no_positive_is_a_negative(given):
    vectors, queries, positives, corpus = make_data(1, "any")
    own = set(zip(queries, positives, strict=True))
    rows, _ = mine(Table(vectors), queries, positives, corpus + positives * 2, **given)
    assert rows and not {(row["query"], row["negative"]) for row in rows} & own
    assert all(count == 1 for count in Counter(map(str, rows)).values()), "nothing is repeated"


def test_margins_count_from_the_least_similar_positive():
    vectors = {"q": (1, 0, 0), "near": (1, 0.1, 0), "far": (0.5, 1, 0), "between": (1, 0.5, 0), "below": (0, 1, 1)}
    model = Table({text: np.array(vector, float) for text, vector in vectors.items()})
    rows, summary = mine(model, ["q", "q"], ["near", "far"], ["between", "below"], absolute_margin=0.0)
    assert [(row["positive"], row["negative"]) for row in rows] == [("near", "below"), ("far", "below")]
    assert summary.left_out["within absolute_margin"] == 1


def test_a_negative_positive_score():
    """The relative margin is a share of |p|: a threshold below p, not above it."""
    rows, scores = torch.tensor([[0, 1, 2]]), torch.tensor([[-0.4, -1.4, -1.6]])
    block = Block(
        0,
        rows,
        scores,
        torch.zeros(1, 3, dtype=torch.bool),
        torch.tensor([[3]]),
        torch.tensor([[-1.0]]),
        torch.tensor([[-1]]),
    )
    assert choose(block, Options(relative_margin=0.5), range(9), random.Random(0), Counter()) == [[2]]


def test_the_summary_says_why():
    vectors, queries, positives, corpus = make_data(2, "any")
    limits = {"absolute_margin": 0.3, "max_score": 0.5, "min_score": -0.5, "range_min": 1, "range_max": 8}
    rows, summary = mine(Table(vectors), queries, positives, corpus, **limits)
    most = Counter(query for query, _ in set(zip(queries, positives, strict=True))).most_common(1)[0][1]
    assert summary.kept + summary.left_out.total() == len(set(queries)) * (8 + most), "each is counted once"
    assert summary.left_out["positives of the query"] > 0
    lines = str(summary).splitlines()
    assert lines[0].startswith(f"{len(rows)} rows, of {len(set(queries))} queries with ")
    assert lines[1].startswith(f"{summary.kept} negatives of {3 * len(set(queries))} wanted, ")
    assert "within absolute_margin" in lines[2] and "before range_min" in lines[2]
    assert lines[3].startswith(f"{summary.lacking} queries lack negatives, {summary.without} of them have none")


def test_a_cross_encoder_reads_each_pair_once():
    vectors, queries, positives, corpus = make_data(3, "any")
    scorer = Scorer()
    mine(Table(vectors), queries, positives, corpus, cross_encoder=scorer)
    assert set(scorer.asked.values()) == {1}
    assert set(zip(queries, positives, strict=True)) < scorer.asked.keys()


def test_what_is_no_list_of_texts_or_no_model():
    vectors, queries, positives, corpus = make_data(3, "any")
    model = Table(vectors)
    with pytest.raises(ValueError, match="corpus is one text: give a list"):
        mine(model, queries, positives, "abc")
    wanted, given = (mine(model, *map(kind, (queries, positives, corpus)))[0] for kind in (list, np.array))
    assert given == wanted, "arrays of texts are lists of texts"
    with pytest.raises(ValueError, match=r"num_negatives is 2\.5: use a whole number"):
        Options(num_negatives=2.5)
    model.gives = "scores"
    with pytest.raises(ValueError, match="model gives scores: take a SentenceTransformer"):
        mine(model, queries, positives, corpus)


def test_a_cross_encoder_of_several_labels():
    vectors, queries, positives, corpus = make_data(3, "any")
    scorer = Scorer()
    scorer.predict = lambda pairs: torch.zeros(len(pairs), 3)
    with pytest.raises(ValueError, match=r"the cross-encoder gives scores \[\d+, 3\] for \d+ pairs: use one with a s"):
        mine(Table(vectors), queries, positives, corpus, cross_encoder=scorer)


def test_an_embedding_that_is_no_number():
    vectors, queries, positives, corpus = make_data(4, "any")
    bad = next(text for text in corpus if text not in positives)
    wanted, _ = mine(Table(vectors), queries, positives, [text for text in corpus if text != bad])
    rows, summary = mine(Table(vectors | {bad: np.full(3, np.nan)}), queries, positives, corpus)
    assert rows == wanted
    assert summary.left_out["positives of the query"] > 0


@pytest.mark.parametrize(("k", "memory_mb"), [*itertools.product([1, 40, 3000, 10**6], [1, 16, 256])])
def test_blocks_fit_into_the_memory(k, memory_mb):
    queries, documents = block_sizes(k, memory_mb)
    assert queries >= 1 and documents >= 1
    used = queries * documents * mining.SCORE_BYTES + queries * k * mining.CANDIDATE_BYTES
    assert used <= memory_mb * 2**20 or queries == 1


def test_the_prompts_and_roles_of_a_model():
    """A real stack: queries and documents take their own prompts, unless another is given."""
    model, texts = tiny_model(), list(dict.fromkeys(sentences(60, longest=20)))
    model.prompts |= {"query": "read ", "document": "sort ", "other": "time "}
    for given, q, d in [
        ({}, {}, {}),
        ({"query_prompt_name": "other"}, {"prompt_name": "other"}, {}),
        ({"corpus_prompt": "key "}, {}, {"prompt": "key "}),
    ]:
        rows, _ = mine(model, texts[:20], texts[20:40], texts[40:], output_scores=True, **given)
        a = model.encode_query([row["query"] for row in rows], normalize_embeddings=True, **q)
        b = model.encode_document([row["negative"] for row in rows], normalize_embeddings=True, **d)
        np.testing.assert_allclose([row["scores"][1] for row in rows], (a * b).sum(1), atol=1e-5)


# ---------------------------------------------------------------- bad input

WRONG = [
    ({"num_negatives": 0}, "num_negatives is 0: use a number at least 1"),
    ({"range_min": -1}, "range_min is -1: use a number at least 0"),
    ({"range_max": 2}, "range_max is 2: it must be at least range_min + num_negatives, 3"),
    ({"range_min": 9, "range_max": 11}, "range_max is 11: it must be at least range_min + num_negatives, 12"),
    ({"absolute_margin": -0.1}, "absolute_margin is -0.1: use a number at least 0"),
    ({"relative_margin": float("nan")}, "relative_margin is nan: use a number at least 0"),
    ({"max_score": "high"}, "max_score is 'high': use a number"),
    ({"max_score": 0.1, "min_score": 0.2}, "min_score is 0.2: use a number at most 0.1"),
    ({"sampling_strategy": "best"}, "sampling_strategy is 'best', known are top, random"),
    (
        {"output_format": "pairs"},
        "output_format is 'pairs', known are triplet, n-tuple, labeled-pair, labeled-list, reranking",
    ),
    ({"memory_mb": 0}, "memory_mb is 0: use a number at least 1"),
    ({"batch_tokens": -1}, "batch_tokens is -1: use a number at least 0"),
    ({"queries": []}, "there are 0 queries and 2 positives: give as many, and some"),
    ({"queries": [], "positives": []}, "there are 0 queries and 0 positives: give as many, and some"),
    ({"positives": ["d1", None]}, "positives[1] is None: give a text"),
    ({"corpus": [("a", "b")]}, "corpus[0] is ('a', 'b'): give a text"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_arguments(given, message):
    vectors, *_ = make_data(0, "any")
    arguments = {"queries": ["q0", "q1"], "positives": ["d0", "d1"], "corpus": ["d2"]} | given
    with pytest.raises(ValueError) as error:
        mine(Table(vectors), **arguments)
    assert str(error.value) == message
