"""Search in 1,400 abstracts on aerodynamics (Cranfield): words alone, a dense and a sparse model, and both fused.

python tests/benchmarks/cranfield.py --data data/cranfield

The files are those of BEIR: corpus.jsonl, queries.jsonl, qrels/test.tsv. Other models are named after the options.
"""

import argparse
from pathlib import Path

import torch
from side_by_side import MODEL, processor

from minist.evaluation import InformationRetrievalEvaluator
from minist.models import open_model
from minist.models.sparse_encoder import SparseEncoder
from minist.retrieval.bm25 import BM25
from minist.retrieval.search import fuse_rankings, search

DEPTH = 100


def ranking_of(model, evaluator: InformationRetrievalEvaluator) -> tuple[torch.Tensor, str]:
    queries, documents = model.encode_query(evaluator.queries), model.encode_document(evaluator.documents)
    if model.gives == "sparse":
        active = documents.values().count_nonzero().item() / len(documents)
        return search(queries, documents, DEPTH, model.similarity_name)[1], f"{active:.0f} words of a document"
    found = search(torch.as_tensor(queries), torch.as_tensor(documents), DEPTH, model.similarity_name)
    return found[1], f"{model.width} dimensions"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cranfield"))
    parser.add_argument("models", nargs="*", type=Path, default=[MODEL, MODEL.with_name("splade-tiny")])
    args = parser.parse_args()
    files = next(iter(args.data.glob("qrels/*.tsv")))
    evaluator = InformationRetrievalEvaluator(
        **InformationRetrievalEvaluator.of_files(args.data / "queries.jsonl", args.data / "corpus.jsonl", files)
    )
    print(f"{len(evaluator.queries):,} queries, {len(evaluator.documents):,} documents; {processor()}")
    index = BM25(evaluator.documents)
    scores = torch.stack([index.scores(query) for query in evaluator.queries])
    rankings = {"BM25": scores.argsort(dim=1, descending=True, stable=True)[:, :DEPTH]}
    notes = {"BM25": ""}
    for folder in args.models:
        plain = folder.name == "splade-tiny"  # a plain checkpoint, which does not say that it is sparse
        model = SparseEncoder(folder) if plain else open_model(folder)
        rankings[folder.name], notes[folder.name] = ranking_of(model, evaluator)
    for name in [name for name in rankings if name != "BM25"]:
        pairs = zip(rankings["BM25"].tolist(), rankings[name].tolist(), strict=True)
        rankings[f"BM25 and {name}"] = torch.tensor([fuse_rankings(pair)[:DEPTH] for pair in pairs])
    for name, ranking in rankings.items():
        found = evaluator.measure(ranking.numpy(), "of")
        figures = f"nDCG@10 {found['of_ndcg@10']:.4f}   MAP@100 {found['of_map@100']:.4f}"
        print(f"{name:30} {figures}   {notes.get(name, '')}")


if __name__ == "__main__":
    main()
