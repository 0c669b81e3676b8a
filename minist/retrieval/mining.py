"""Hard negatives: for each query, documents that a model finds near to it and that are not its positives.

Training against them teaches more than training against documents drawn by chance; but those that are nearest of all
are often positives that nobody has labelled. Ranks, score limits and margins below the positive's score leave these
out. Moreira et al. 2024 (NV-Retriever, arXiv:2407.15831) compare the ways; `relative_margin=0.05` did best.

texts -> embeddings -> the K nearest documents of each query -> rescored -> within limits -> ranked -> n chosen -> rows
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from minist.checks import number, pick
from minist.progress import Update, progress_bar
from minist.retrieval.candidates import Block, Pairs, PairScorer, nearest, rescore
from minist.retrieval.choice import Choice, Limits, Ranks
from minist.retrieval.embedding_cache import TextEmbedder, UnitEmbeddings
from minist.retrieval.mined_rows import FORMATS, Found, Mined, Row, Summary


def mine_hard_negatives(
    model: TextEmbedder, queries: Sequence[str], positives: Sequence[str], corpus: Sequence[str] | None = None, *,
    num_negatives: int = 3, range_min: int = 0, range_max: int | None = None,
    sampling_strategy: str = "top", seed: int = 0, include_positives: bool = False,
    max_score: float | None = None, min_score: float | None = None,
    absolute_margin: float | None = None, relative_margin: float | None = None,
    cross_encoder: PairScorer | None = None, output_format: str = "triplet", output_scores: bool = False,
    query_prompt_name: str | None = None, query_prompt: str | None = None,
    corpus_prompt_name: str | None = None, corpus_prompt: str | None = None, batch_tokens: int = 0,
    memory_mb: int = 256, cache_folder: str | Path | None = None, show_progress_bar: bool | None = None,
) -> Mined:  # fmt: skip
    """Find negatives for each of `queries`, whose positives stand beside them; equal queries are one.

    Candidates are the texts of `corpus` and all positives, each text once; a query's own positives are none, unless
    `include_positives` (then n-tuples, or "reranking", which always does: what a first stage finds). The nearest by
    similarity of the embeddings, scaled to length one, are scored anew by a `cross_encoder`, and so are the positives.
    Then Limits and Ranks, see choice.py, decide. `output_format` and `output_scores`: see mined_rows.py.

    `memory_mb` bounds what is in memory beside embeddings and result, `batch_tokens` each forward pass; `cache_folder`
    keeps the embeddings, and a killed run goes on from there. ValueError for no pairs, or nothing to choose from."""
    make_rows, is_ranking = pick("output_format", output_format, FORMATS), output_format == "reranking"
    if include_positives and not is_ranking:
        make_rows = FORMATS["n-tuple"]  # in the other formats positives and negatives stand apart
    include_positives = include_positives or is_ranking
    limits = Limits(max_score, min_score, absolute_margin, relative_margin)
    ranks = Ranks(num_negatives, range_min, range_max, sampling_strategy)
    pairs = Pairs.of(queries, positives, corpus or [])
    ranks = ranks.with_end(pairs.most, limits.reject_the_best or cross_encoder is not None)
    k = ranks.end + pairs.most  # candidates of each query: so many of them may be its positives
    number("memory_mb", memory_mb, 1)
    embed = UnitEmbeddings(model, batch_tokens, cache_folder, show_progress_bar)
    prompt = model.find_prompt(query_prompt_name, query_prompt, "query")  # a wrong name should cost no embedding
    documents = embed(pairs.documents, model.find_prompt(corpus_prompt_name, corpus_prompt, "document"), "document")
    blocks = nearest(pairs, embed(pairs.queries, prompt, "query"), documents, model, k, memory_mb)
    if cross_encoder is not None:
        blocks = (rescore(block, pairs, cross_encoder, include_positives) for block in blocks)
    choice = Choice(limits, ranks, include_positives, seed)
    with progress_bar(len(pairs.queries), "queries", "mining", show_progress_bar) as bar:
        return collect(pairs, blocks, choice, lambda found: make_rows(found, num_negatives, output_scores), bar.update)


def collect(
    pairs: Pairs, blocks: Iterable[Block], choice: Choice, make_rows: Callable[[Found], Iterable[Row]], done: Update
) -> Mined:
    """All rows of what is chosen, block by block."""
    result = Mined([], Summary(choice.ranks.num_negatives, len(pairs.documents), choice.left_out))
    for block in blocks:
        for found in choice.found(block, pairs):
            result.add(found, list(make_rows(found)))
        done(len(block.rows))
    return result
