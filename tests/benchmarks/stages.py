"""Retrieve and rerank on judged queries: nDCG@10 of each stage alone, of searches fused, and of the whole pipeline.

python tests/benchmarks/stages.py --data data/cranfield --dense M1 --sparse M2 --rerank M3
python tests/benchmarks/stages.py --pairs data/python_docs/heldout.jsonl --dense M1 --sparse M2 --rerank M3

--data is a folder as in BEIR: corpus.jsonl, queries.jsonl, qrels/*.tsv, whose judgements may be graded. --pairs
is a file with the columns summary and body, or others that --columns names: each row is a query and its answer.
"""

import argparse
from itertools import combinations
from pathlib import Path

import torch

from minist.data.rows import read_places
from minist.evaluation import InformationRetrievalEvaluator
from minist.models import open_model
from minist.progress import progress_bar
from minist.retrieval.bm25 import BM25
from minist.retrieval.pipeline import Pipeline, by_embedding, by_index, by_words
from minist.retrieval.sparse_index import SparseIndex

DEPTH = 50  # documents of a query that are measured, and reranked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path)
    source.add_argument("--pairs", type=Path)
    parser.add_argument("--columns", nargs=2, default=["summary", "body"])
    for name in ("--dense", "--sparse", "--rerank"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    evaluator = InformationRetrievalEvaluator(**read(args))
    texts = evaluator.documents
    print(f"{len(evaluator.queries):,} queries, {len(texts):,} documents")
    retrievers = {"bm25": by_words(BM25(texts))}
    if args.dense:
        model = open_model(args.dense, "SentenceTransformer")
        retrievers["dense"] = by_embedding(model, torch.as_tensor(model.encode_document(texts)))
    if args.sparse:
        model = open_model(args.sparse, "SparseEncoder")
        index = SparseIndex(model.width, "")
        index.add([model.encode_document(texts)])
        retrievers["sparse"] = by_index(model, index)
    sets = [names for n in range(1, len(retrievers) + 1) for names in combinations(retrievers, n)]
    for names in sets:
        own = {name: retrievers[name] for name in names}
        show(" + ".join(names), evaluator, [rows(Pipeline(texts, own), query) for query in evaluator.queries])
    if args.rerank:
        rerank(Pipeline(texts, retrievers, open_model(args.rerank, "CrossEncoder"), rerank_top=DEPTH), evaluator)


def read(args: argparse.Namespace) -> dict:
    if args.pairs:
        names = dict(zip(("query", "document"), args.columns, strict=True))
        return InformationRetrievalEvaluator.of_rows(read_places([args.pairs], names))
    qrels = next(iter(sorted(args.data.glob("qrels/*.tsv"))))
    return InformationRetrievalEvaluator.of_files(args.data / "queries.jsonl", args.data / "corpus.jsonl", qrels)


def rows(pipeline: Pipeline, query: str) -> list[int]:
    return [hit.row for hit in pipeline.search(query, DEPTH)]


def rerank(pipeline: Pipeline, evaluator: InformationRetrievalEvaluator) -> None:
    """Each pair is scored once; the hits say what rank either order gives them."""
    found = {"rerank": [], "sum": []}
    with progress_bar(len(evaluator.queries), "queries", "reranking") as bar:
        for query in evaluator.queries:
            hits = pipeline.search(query, DEPTH)
            for stage, rankings in found.items():
                rankings.append([hit.row for hit in sorted(hits, key=lambda hit: hit.stages[stage][1])])
            bar.update(1)
    show("all, reranked by its score alone", evaluator, found["rerank"])
    show("all, reranked: the pipeline", evaluator, found["sum"])


def show(name: str, evaluator: InformationRetrievalEvaluator, rankings: list[list[int]]) -> None:
    found = evaluator.measure(rankings, "of")
    figures = "   ".join(f"{metric} {found[f'of_{metric}']:.4f}" for metric in ("ndcg@10", "mrr@10", "recall@10"))
    print(f"{name:34} {figures}", flush=True)


if __name__ == "__main__":
    main()
