"""Hard negatives: for each query, documents that a model finds near to it and that are not its positives.

Training against them teaches more than training against documents drawn by chance; but those that are nearest of all
are often positives that nobody has labelled. Ranks, score limits and margins below the positive's score leave these
out. Moreira et al. 2024 (NV-Retriever, arXiv:2407.15831) compare the ways; `relative_margin=0.05` did best.

texts -> embeddings -> the K nearest documents of each query -> rescored -> within limits -> ranked -> n chosen -> rows
"""

from collections.abc import Sequence
from pathlib import Path

from minist.checks import number, pick
from minist.progress import progress_bar
from minist.retrieval.candidates import Pairs, PairScorer, nearest, rescore
from minist.retrieval.choice import Choice, Limits, Ranks
from minist.retrieval.embedding_cache import TextEmbedder, UnitEmbeddings
from minist.retrieval.mined_rows import FORMATS, Mined, Summary


def mine_hard_negatives(
    model: TextEmbedder,
    queries: Sequence[str],
    positives: Sequence[str],
    corpus: Sequence[str] | None = None,
    *,
    cross_encoder: PairScorer | None = None,
    num_negatives: int = 3,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    sampling_strategy: str = "top",
    seed: int = 0,
    include_positives: bool = False,
    output_format: str = "triplet",
    output_scores: bool = False,
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    batch_tokens: int = 0,
    memory_mb: int = 256,
    cache_folder: str | Path | None = None,
    show_progress_bar: bool | None = None,
) -> Mined:
    """Find `num_negatives` for each of `queries`, whose positives stand beside them; equal queries are one.

    Candidates are the texts of `corpus` and all positives, each text once; a query's own positives are none, unless
    `include_positives` (then always n-tuples: the ranking of a first stage, for a reranker to mend). The numbers from
    `num_negatives` to `seed` decide, see Rules; a `cross_encoder` scores the nearest candidates and the positives anew
    before. `output_format` and `output_scores`: see mined_rows.py. Embeddings are scaled to length one.

    `memory_mb` bounds what is in memory beside the embeddings and the result, `batch_tokens` each forward pass;
    `cache_folder` keeps the embeddings, and a run that was killed goes on from there. ValueError for numbers that leave
    nothing to choose, no pairs, or a query without a positive."""
    make_rows = pick("output_format", "n-tuple" if include_positives else output_format, FORMATS)
    number("memory_mb", memory_mb, 1)
    limits = Limits(max_score, min_score, absolute_margin, relative_margin)
    ranks = Ranks(num_negatives, range_min, range_max, sampling_strategy)
    pairs = Pairs.of(queries, positives, corpus or [])
    ranks = ranks.with_end(pairs.most, limits.reject_the_best or cross_encoder is not None)
    choice = Choice(limits, ranks, include_positives, seed)
    embed = UnitEmbeddings(model, batch_tokens, cache_folder, show_progress_bar)
    before_query = model.find_prompt(query_prompt_name, query_prompt, "query")  # a mistake costs no embedding
    documents = embed(pairs.documents, model.find_prompt(corpus_prompt_name, corpus_prompt, "document"), "document")
    asked = embed(pairs.queries, before_query, "query")

    k = ranks.end + pairs.most  # as many more as may be positives
    result = Mined([], Summary(num_negatives, len(pairs.documents), choice.left_out))
    with progress_bar(len(pairs.queries), "queries", "mining", show_progress_bar) as bar:
        for block in nearest(pairs, asked, documents, k, model.similarity_name, model.device, memory_mb):
            scored = block if cross_encoder is None else rescore(block, pairs, cross_encoder, include_positives)
            for found in choice.found(scored, pairs):
                result.add(found, list(make_rows(found, num_negatives, output_scores)))
            bar.update(len(block.rows))
    return result
