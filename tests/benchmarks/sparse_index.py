"""The inverted index beside a product with torch's sparse CSR matrix: 100,000 documents of 100 terms, queries of 30.

    python tests/benchmarks/sparse_index.py --queries 50 --threads 1

Words are drawn by Zipf's law, as in texts, and uniformly. Both sides find the 10 best documents. The product is given
the query as a dense vector, and the matrix with indices in int64, as torch makes them, and in int32, which is faster.
"""

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median

import torch
from side_by_side import processor, seconds
from torch import Tensor

from minist.retrieval.sparse_index import SparseIndex

TERMS, QUERY_TERMS, WORDS, K, BLOCK = 100, 30, 30522, 10, 8192
FREQUENCIES = {"Zipf": 1 / torch.arange(1, WORDS + 1).double(), "uniform": torch.ones(WORDS).double()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=50, help="rounds, of one query on each side")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def draw(rows: int, terms: int, frequencies: Tensor, generator: torch.Generator) -> Tensor:
    """[rows, WORDS], sparse: the first `terms` different words of each row of many that are drawn."""
    ends = frequencies.cumsum(0)
    chances = torch.rand(rows, 4 * terms, generator=generator, dtype=torch.double) * ends[-1]
    words = torch.searchsorted(ends, chances).clamp(max=WORDS - 1)
    order = words.argsort(dim=1, stable=True)
    is_new = torch.ones_like(words, dtype=torch.bool)
    is_new[:, 1:] = words.gather(1, order).diff() > 0
    is_new = is_new.scatter(1, order, is_new.clone())  # back in the order of the draw
    places = (is_new & (is_new.cumsum(1) <= terms)).nonzero().T
    weights = torch.rand(places.shape[1], generator=generator) + 0.1
    return torch.sparse_coo_tensor(torch.stack([places[0], words[*places]]), weights, (rows, WORDS)).coalesce()


def blocks(frequencies: Tensor, documents: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, documents, BLOCK):
        yield draw(min(BLOCK, documents - start), TERMS, frequencies, generator)


def compare(name: str, documents: list[Tensor], frequencies: Tensor, rounds: int, folder: Path) -> None:
    build = seconds(lambda: SparseIndex(WORDS, "").save(folder / name, documents))
    index, size = SparseIndex.load(folder / name, ""), sum(file.stat().st_size for file in (folder / name).iterdir())
    wide = torch.cat(documents).to_sparse_csr()
    narrow = torch.sparse_csr_tensor(wide.crow_indices().int(), wide.col_indices().int(), wide.values(), wide.shape)
    times: dict[str, list[float]] = {"minist": [], "CSR int32": [], "CSR int64": []}
    queries = draw(rounds, QUERY_TERMS, frequencies, torch.Generator().manual_seed(1))
    index.search(queries, K)  # so that the pages are in memory, as the matrix is
    for i in range(rounds):
        query = queries.index_select(0, torch.tensor([i])).coalesce()
        dense = query.to_dense()[0]
        times["minist"].append(seconds(lambda query=query: index.search(query, K)))
        times["CSR int32"].append(seconds(lambda dense=dense: (narrow @ dense).topk(K)))
        times["CSR int64"].append(seconds(lambda dense=dense: (wide @ dense).topk(K)))
        torch.testing.assert_close(index.search(query, K)[0][0], (narrow @ dense).topk(K).values, atol=1e-5, rtol=1e-5)
    ours, *theirs = (1000 * median(found) for found in times.values())
    shown = "".join(f"{time:>12.2f} ms{time / ours:>8.1f}x" for time in theirs)
    print(f"{name:10}{ours:>10.2f} ms{shown}{build:>10.1f} s{size / 1e6:>8.0f} MB", flush=True)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # of torch, about sparse tensors
    print(f"{date.today()}, {processor()}, {args.threads} threads, median of {args.queries} queries of {QUERY_TERMS}")
    print(f"{args.documents:,} documents of {TERMS} terms, the {K} best\n")
    print(
        f"{'words':10}{'minist':>13}{'CSR int32':>15}{'ratio':>9}{'CSR int64':>15}{'ratio':>9}{'build':>12}{'disk':>11}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, frequencies in FREQUENCIES.items():
            compare(name, list(blocks(frequencies, args.documents)), frequencies, args.queries, Path(folder))


if __name__ == "__main__":
    main()
