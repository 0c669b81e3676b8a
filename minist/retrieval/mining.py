"""Hard negatives: for each query, documents that a model finds near to it and that are not its positives.

Training against them teaches more than training against documents drawn by chance; but those that are nearest of all
are often positives that nobody has labelled. Ranks, score limits and margins below the positive's score leave these
out. Moreira et al. 2024 (NV-Retriever, arXiv:2407.15831) compare the ways; `relative_margin=0.05` did best.

texts -> embeddings -> the K nearest documents of each query -> rescored -> within limits -> ranked -> n chosen -> rows
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minist.checks import number, pick, whole
from minist.data.tokenizer import text_fault
from minist.progress import progress_bar
from minist.retrieval.embedding_cache import unit_embeddings
from minist.retrieval.search import search_block
from minist.similarity import PAIRWISE_SIMILARITIES, SIMILARITIES

QUERIES, PAIRS = 1024, 4096  # queries, and pairs of embeddings, that are compared at a time, at most
DOCUMENTS = 256  # or a multiple of it: a matrix product of an odd width takes up to half as long again
SCORE_BYTES, CANDIDATE_BYTES = 24, 256  # of one at most, with all that similarity, search and sorting need beside it
Texts = Sequence[str]
Row = dict[str, Any]
SAMPLING: dict[str, Callable[..., list[int]]] = {  # n of the columns that may be chosen
    "top": lambda columns, n, draw: columns[:n],
    "random": lambda columns, n, draw: sorted(draw.sample(columns, min(n, len(columns)))),
}
FORMATS = {  # what is in a row; with output_scores labels become similarities, and "scores" come to the others
    "triplet": "query, positive, negative: for each positive and each negative",
    "n-tuple": "query, positive, negative_1 .. negative_n: for each positive, where all n were found",
    "labeled-pair": "query, document, label: 1 for each positive, 0 for each negative",
    "labeled-list": "query, documents, labels: for each positive, it first, then the negatives",
    "reranking": "query, positive, documents: lists, of the best n with the positives where the model ranks them",
}


def option(default: Any, text: str, least: float | None = None, known: dict[str, Any] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "least": least, "known": known})  # for --help, and checks


@dataclass
class Options:
    """ValueError where a number is too small, a name is not known, or there are fewer ranks than negatives."""

    num_negatives: int = option(3, "for each query", 1)
    range_min: int = option(0, "skip so many of the best that are left", 0)
    range_max: int | None = option(None, "and take none after so many; by itself enough for what may be left out")
    sampling_strategy: str = option("top", "the best of what is left, or any of it", known=SAMPLING)
    seed: int = option(0, "of the draws, if random")
    max_score: float | None = option(None, "leave out what scores above", -torch.inf)
    min_score: float | None = option(None, "leave out what scores below", -torch.inf)
    absolute_margin: float | None = option(None, "leave out above p - margin, p: the least similar positive's score", 0)
    relative_margin: float | None = option(None, "leave out above p - |p| * margin", 0)
    output_format: str = option("triplet", "what a row holds", known=FORMATS)
    output_scores: bool = option(False, "write similarities too, or in place of labels")
    include_positives: bool = option(False, "rank the positives too; format n-tuple or reranking")
    query_prompt: str | None = option(None, "put this before each query")
    query_prompt_name: str | None = option(None, "put this prompt of the model before each query")
    corpus_prompt: str | None = option(None, "put this before each document")
    corpus_prompt_name: str | None = option(None, "put this prompt of the model before each document")
    batch_tokens: int = option(0, "tokens per forward pass: bounds the memory of the model", 0)
    memory_mb: int = option(256, "megabytes for scores and candidates, beside the embeddings", 1)
    cross_encoder: Any = None  # a model of one label: its scores replace similarities, of candidates and positives
    cache_folder: str | Path | None = None  # keeps the embeddings: a killed run goes on from there
    show_progress_bar: bool | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least, known = vars(self)[f.name], f.metadata.get("least"), f.metadata.get("known")
            if known is not None:
                pick(f.name, value, known)
            elif least is not None and value is not f.default:  # None stands for no limit
                (number if "float" in str(f.type) else whole)(f.name, value, least)
        if self.max_score is not None and self.min_score is not None:
            number("min_score", self.min_score, most=self.max_score)
        least = self.range_min + self.num_negatives
        if self.range_max is not None and self.range_max < least:
            raise ValueError(f"range_max is {self.range_max}: it must be at least range_min + num_negatives, {least}")
        if self.include_positives and self.output_format != "reranking":
            self.output_format = "n-tuple"  # in the other formats positives and negatives stand apart
        self.include_positives |= self.output_format == "reranking"

    def ranks(self, most_positives: int) -> range:
        """Which may be chosen, 0 is the best of those left; without range_max as sentence-transformers has it."""
        may_reject_the_best = (self.max_score, self.absolute_margin, self.relative_margin, self.cross_encoder)
        spare = self.num_negatives * (1 if may_reject_the_best == (None,) * 4 else 10) + most_positives
        return range(self.range_min, self.range_min + spare if self.range_max is None else self.range_max)


class Summary(NamedTuple):
    """How many candidates became negatives, and why the others did not. Nothing is repeated to fill a row."""

    rows: int
    queries: int
    positives: int
    documents: int
    wanted: int  # negatives of each
    kept: int
    lacking: int  # queries with fewer negatives than wanted
    without: int  # those among them that have none
    left_out: Counter[str]  # why the other candidates were not -> how many

    def __str__(self) -> str:
        s, reasons = self, ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
        text = f"{s.rows:,} rows, of {s.queries:,} queries with {s.positives:,} positives, {s.documents:,} documents\n"
        text += f"{s.kept:,} negatives of {s.wanted * s.queries:,} wanted, "
        text += f"from {s.kept + s.left_out.total():,} candidates\nthe other candidates: {reasons or 'none'}"
        less = f"\n{s.lacking:,} queries lack negatives, {s.without:,} of them have none: "
        return text + (f"{less}a larger range_max or milder limits find more" if s.lacking else "")


def mine_hard_negatives(
    model: Any, queries: Texts, positives: Texts, corpus: Texts | None = None, options: Options | None = None
) -> tuple[list[Row], Summary]:
    """Rows with negatives for each of `queries`, whose positives stand beside them; equal queries are one. Candidates
    are the texts of `corpus` and all positives, each once; how near they are, the similarity of `model` says, a
    SentenceTransformer, of embeddings of length one. ValueError for no pairs, half a pair, or what is no text."""
    o = options or Options()
    if model.gives != "embeddings":
        raise ValueError(f"model gives {model.gives}: take a SentenceTransformer, and this one as cross_encoder")
    queries, documents, own, same = numbered(queries, positives, () if corpus is None else corpus)
    most = max(map(len, own))
    ranks, query_prompt = o.ranks(most), model.find_prompt(o.query_prompt_name, o.query_prompt, "query")
    corpus_prompt = model.find_prompt(o.corpus_prompt_name, o.corpus_prompt, "document")
    embed = partial(unit_embeddings, model, o.batch_tokens, o.cache_folder, o.show_progress_bar)
    d, q = embed(documents, corpus_prompt, "document"), embed(queries, query_prompt, "query")
    rows, counts, left_out, draw = list[Row](), list[int](), Counter[str](), random.Random(o.seed)
    with progress_bar(len(queries), "queries", "mining", o.show_progress_bar) as bar:
        for block in nearest(model, q, d, own, same, ranks.stop + most, o.memory_mb):  # `most` may be positives
            block = block if o.cross_encoder is None else rescore(block, queries, documents, o)
            for i, columns in enumerate(choose(block, o, ranks, draw, left_out)):
                rows += make_rows(queries[block.first + i], documents, block, i, columns, o)
                counts.append(len(columns))
            bar.update(len(block.rows))
    sizes = len(rows), len(queries), sum(map(len, own)), len(documents), o.num_negatives, sum(counts)
    return rows, Summary(*sizes, sum(count < o.num_negatives for count in counts), counts.count(0), left_out)


def numbered(queries: Texts, positives: Texts, corpus: Texts) -> tuple[list[str], list[str], list[list[int]], Tensor]:
    """Queries and documents, none twice; of each query the numbers of its positives, and of its own text [Q], or -1."""
    if len(queries) != len(positives) or not len(queries):
        raise ValueError(f"there are {len(queries)} queries and {len(positives)} positives: give as many, and some")
    for name, texts in (("queries", queries), ("positives", positives), ("corpus", corpus)):
        faults = [(f"[{i}]", text_fault(text, may_pair=False)) for i, text in enumerate(texts)]
        faults = [("", "one text: give a list")] if isinstance(texts, str) else faults  # each letter would be a text
        if found := next((f"{name}{place} is {fault}" for place, fault in faults if fault), ""):
            raise ValueError(found)
    numbers = {text: i for i, text in enumerate(dict.fromkeys([*corpus, *positives]))}
    own: dict[str, dict[int, None]] = {}  # a dict for its order: a pair that stands twice is one
    for query, positive in zip(queries, positives, strict=True):
        own.setdefault(query, {})[numbers[positive]] = None
    return list(own), list(numbers), list(map(list, own.values())), torch.tensor([numbers.get(q, -1) for q in own])


class Block(NamedTuple):
    """Some queries, from number `first` on, their K candidates each, best first, and their P positives at most."""

    first: int
    rows: Tensor  # [q, K] numbers of documents
    scores: Tensor  # [q, K]
    is_positive: Tensor  # [q, K]
    own: Tensor  # [q, P] numbers of the positives; -1 where there are fewer
    own_scores: Tensor  # [q, P]; inf there
    same: Tensor  # [q, 1] the number of the query's own text, -1 where that is no document


def nearest(model: Any, q: Tensor, d: Tensor, own: list[list[int]], same: Tensor, k: int, mb: int) -> Iterator[Block]:
    """The k nearest of documents d [M, D] to each of queries q [Q, D], by the model's similarity, on its device."""
    name = model.similarity_name.replace("cosine", "dot")  # which is the same for vectors of length one
    similar, similar_pairs = SIMILARITIES[name], PAIRWISE_SIMILARITIES[name]
    many, at_once = block_sizes(min(k, len(d)), mb)
    for first in range(0, len(q), many):
        part = q[first : first + many]
        scores, rows = search_block(part.to(model.device), d, k, lambda a, b: similar(a, b.to(a.device)), at_once)
        golds = pad_sequence([*map(torch.tensor, own[first : first + many])], batch_first=True, padding_value=-1)
        pairs = [pair.T for pair in (golds >= 0).nonzero().split(PAIRS)]
        found = torch.cat([similar_pairs(part[i], d[golds[i, j]]) for i, j in pairs])
        own_scores = torch.full(golds.shape, torch.inf).masked_scatter(golds >= 0, found)
        shift = torch.arange(len(part))[:, None] * (len(d) + 1)  # a number for each query and document, or -1
        is_positive = torch.isin(rows + shift, golds + shift)
        yield Block(first, rows, scores, is_positive, golds, own_scores, same[first : first + many, None])


def block_sizes(k: int, memory_mb: int) -> tuple[int, int]:
    """Queries, and documents, at a time: one half of the memory is for their scores, one for the candidates."""
    half = memory_mb * 2**20 // 2
    scores = half // SCORE_BYTES
    queries = max(min(QUERIES, half // (CANDIDATE_BYTES * k), int(scores**0.5), scores // DOCUMENTS), 1)
    return queries, max(scores // queries // DOCUMENTS, 1) * DOCUMENTS


def rescore(block: Block, queries: Texts, documents: Texts, o: Options) -> Block:
    """The block with the cross-encoder's scores, in their order. Of equal scores the lower document comes first."""
    k, asked = block.rows.shape[1], block.scores > -torch.inf  # not the texts whose embedding is NaN
    asked &= ~block.is_positive | o.include_positives  # positives may be no candidates; their own scores come last:
    asked, rows = torch.cat([asked, block.own >= 0], 1), torch.cat([block.rows, block.own], 1)
    numbers = zip(asked.nonzero()[:, 0].tolist(), rows[asked].tolist(), strict=True)
    pairs = [(queries[block.first + i], documents[row]) for i, row in numbers]
    found = torch.as_tensor(o.cross_encoder.predict(pairs))
    if found.shape != (len(pairs),):
        shape = f"scores {list(found.shape)} for {len(pairs)} pairs"
        raise ValueError(f"the cross-encoder gives {shape}: use one with a single label")
    scores = torch.full(rows.shape, -torch.inf).masked_scatter(asked, found.detach().float().cpu())
    scores.nan_to_num_(-torch.inf, torch.inf, -torch.inf)
    own_scores = scores[:, k:].masked_fill(block.own < 0, torch.inf)
    by_row = block.rows.argsort(dim=1)
    order = by_row.gather(1, scores.gather(1, by_row).argsort(dim=1, descending=True, stable=True))
    rows, scores, is_positive = (x.gather(1, order) for x in (block.rows, scores, block.is_positive))
    return block._replace(rows=rows, scores=scores, is_positive=is_positive, own_scores=own_scores)


def choose(block: Block, o: Options, ranks: range, draw: random.Random, left_out: Counter[str]) -> list[list[int]]:
    """Of each query the columns of its negatives. `left_out` counts the other candidates, each by its first reason."""
    left, scores = torch.ones_like(block.is_positive), block.scores
    p = block.own_scores.amin(1, keepdim=True)  # [q, 1] the score of each query's least similar positive

    def leave_out(reason: str, wrong: Tensor) -> None:
        left_out[reason] += int((left & wrong).sum())
        left.logical_and_(~wrong)

    if not o.include_positives:
        leave_out("positives of the query", block.is_positive)
    leave_out("the query itself", (block.rows == block.same) & ~block.is_positive)  # of questions that say the same
    leave_out("without a score", scores == -torch.inf)  # of a text whose embedding is NaN
    if o.absolute_margin is not None:
        leave_out("within absolute_margin", scores + o.absolute_margin > p)
    if o.relative_margin is not None:
        leave_out("within relative_margin", scores > p - p.abs() * o.relative_margin)  # |p|, since p may be negative
    if o.max_score is not None:
        leave_out("above max_score", scores > o.max_score)
    if o.min_score is not None:
        leave_out("below min_score", scores < o.min_score)
    rank = left.cumsum(1) - 1  # among those that are left, which stand in order
    leave_out("before range_min", rank < ranks.start)
    leave_out("after range_max", rank >= ranks.stop)
    chosen = [SAMPLING[o.sampling_strategy](row.nonzero()[:, 0].tolist(), o.num_negatives, draw) for row in left]
    left_out["not needed"] += int(left.sum()) - sum(map(len, chosen))
    return chosen


def make_rows(query: str, documents: Texts, block: Block, i: int, columns: list[int], o: Options) -> list[Row]:
    scored = zip(block.own[i].tolist(), block.own_scores[i].tolist(), strict=True)
    positives, rows = [(documents[row], score) for row, score in scored if row >= 0], list[Row]()
    texts, scores = [documents[row] for row in block.rows[i, columns].tolist()], block.scores[i, columns].tolist()
    negatives = list(zip(texts, scores, strict=True))  # best first
    if o.output_format == "triplet":  # the scores of a positive and of its negatives, as MarginMSELoss takes them
        rows = [{"positive": a, "negative": b, "scores": [p, s]} for a, p in positives for b, s in negatives]
    elif o.output_format == "n-tuple" and len(texts) == o.num_negatives:  # a column of some rows only would be none
        numbered = {f"negative_{rank}": text for rank, text in enumerate(texts, 1)}
        rows = [{"positive": a, **numbered, "scores": [p, *scores]} for a, p in positives]
    elif o.output_format == "labeled-pair":
        found = enumerate(positives + negatives)
        rows = [{"document": a, "label": int(n < len(positives)), "score": score} for n, (a, score) in found]
    elif o.output_format == "labeled-list" and texts:  # a list of one has nothing to rank
        labels = [1] + [0] * len(texts)
        rows = [{"documents": [a, *texts], "labels": labels, "scores": [p, *scores]} for a, p in positives]
    elif o.output_format == "reranking":  # as CrossEncoderRerankingEvaluator takes it
        rows = [{"positive": [text for text, _ in positives], "documents": texts, "scores": scores}]
    dropped = ("label", "labels") if o.output_scores else ("score", "scores")
    return [{"query": query} | {key: row[key] for key in row if key not in dropped} for row in rows]
