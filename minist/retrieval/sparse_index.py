"""Exact search among sparse embeddings by an inverted index: of each word its postings, the documents that hold it.

    score(q, d) = sum over the words w of q:  q_w d_w

A product with the matrix of all embeddings reads all weights of all documents; this reads those of the query's words.

    index.json      {"model": a hash, "size": N}
    starts.npy      [V + 1] int64: the postings of word w are those from starts[w] to starts[w + 1]
    documents.npy   [P] int32, ascending within each word
    weights.npy     [P] float32
"""

import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from minist.checks import number, whole
from minist.files import complete_folder, read_json, read_npy, write_json

AT_ONCE = 1 << 21  # postings that are merged at a time, about 100 MB; more only where one word has more
GROUP = 16  # documents, of which the best is looked at first
TYPES: dict[str, Any] = {"starts": np.dtype("<i8"), "documents": np.dtype("<i4"), "weights": np.dtype("<f4")}
Postings = Sequence[Tensor]  # starts, documents, weights: the matrix of embeddings by columns, CSC


class SparseIndex:
    """Documents 0 to `size` - 1, of `width` V; `model` is a hash of the model that made their embeddings.

    SparseIndex(model.width, seal).save("folder", blocks)  # or in memory: index.add(blocks)
    scores, rows = SparseIndex.load("folder", seal).search(queries, 10)
    """

    def __init__(self, width: int, model: str) -> None:
        self.width, self.model, self.size = width, model, 0
        self.postings: Postings = (torch.zeros(width + 1, dtype=torch.long), torch.empty(0).int(), torch.empty(0))

    @classmethod
    def load(cls, folder: str | Path, model: str) -> Self:
        """A saved index, memory-mapped: a search reads what it needs. ValueError: another model's, or damaged."""
        about = read_json(Path(folder) / "index.json")
        if not isinstance(about, dict) or about.get("model") != model:
            raise ValueError(f"{folder} is no index of the model {model}: build it anew with this model")
        arrays = [read_npy(Path(folder) / f"{name}.npy") for name in TYPES]
        fits = [(x.dtype, x.ndim) for x in arrays] == [(dtype, 1) for dtype in TYPES.values()]
        ends, count = arrays[0][-1:].tolist(), [len(arrays[1])]
        if not fits or not ends == count == [len(arrays[2])] or (np.diff(arrays[0], prepend=0) < 0).any():
            raise ValueError(f"{folder} is a damaged index: build it anew")
        index = cls(len(arrays[0]) - 1, model)
        index.size = whole(f"the size in {folder}", about.get("size"), 0)
        with warnings.catch_warnings(action="ignore"):  # that nobody may write to them: nobody does
            index.postings = [torch.from_numpy(array) for array in arrays]
        return index

    def add(self, blocks: Iterable[Tensor]) -> None:
        """Documents [n, V], sparse, after those there are. Each call writes the index anew, in memory: give many."""
        parts = [self.postings]
        for block in blocks:
            parts.append(self._part(block, self.size))
            self.size += len(block)
        self.postings = merge(parts, None)

    def save(self, folder: str | Path, more: Iterable[Tensor] = ()) -> None:
        """Write the index, and the documents of the blocks `more` after its own, of which one at a time is in memory.
        ValueError where something of that name is there already."""
        if Path(folder).exists():
            raise ValueError(f"{folder} is there already: save the index under another name")
        size, parts = self.size, [self.postings]
        with complete_folder(Path(folder)) as partial:
            for block in more:
                parts.append(merge([self._part(block, size)], partial / f"part-{len(parts)}"))
                size += len(block)
            merge(parts, partial)
            for part in partial.glob("part-*"):
                shutil.rmtree(part)
            write_json(partial / "index.json", {"model": self.model, "size": size})

    def _part(self, block: Tensor, first: int) -> Postings:
        """Of a block [n, V] whose documents are numbered from `first` on."""
        rows, words = (block := self._checked(block)).indices()
        order = words.argsort(stable=True)  # so within each word the documents stay in order
        starts = running(torch.bincount(words, minlength=self.width))
        return starts, (rows[order] + first).int(), block.values()[order].float()

    def _checked(self, embeddings: Tensor) -> Tensor:
        number("the width of the embeddings", embeddings.shape[-1], self.width, self.width)
        return embeddings.to_sparse().coalesce()

    def search(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores [Q, k] float32 and numbers [Q, k] of the best documents for queries [Q, V], sparse.

        Best first, and of equal scores the lower number first; k is the smaller of `top_k` and the number of
        documents. It is what the product of all would give: a document that shares no word has the score 0, which
        comes where too few are above, and goes before what is negative. NaN comes last, as minus infinity."""
        queries, k = self._checked(queries), min(whole("top_k", top_k, 1), self.size)
        scores, rows = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.long)
        counts = torch.bincount(queries.indices()[0], minlength=len(queries)).tolist()
        parts = zip(queries.indices()[1].split(counts), queries.values().split(counts), strict=True)
        for i, (words, weights) in enumerate(parts):
            found = torch.zeros(self.size)
            for word, weight in zip(words.tolist(), weights.tolist(), strict=True):
                place = slice(*self.postings[0][word : word + 2].tolist())
                found.index_add_(0, self.postings[1][place], self.postings[2][place], alpha=weight)
            rows[i] = best(found.nan_to_num_(float("-inf"), float("inf"), float("-inf")), k)
            scores[i] = found[rows[i]]
        return scores, rows


def best(scores: Tensor, k: int) -> Tensor:
    """The numbers [k] of the largest of scores [N], best first, of equal ones the lower first."""
    # the best of k groups are k documents: no score below the least of them can be wanted, so few are sorted
    of_groups = scores[: len(scores) // GROUP * GROUP].view(-1, GROUP).amax(1)
    least = of_groups.topk(k).values[-1] if 0 < k <= len(of_groups) else torch.tensor(float("-inf"))
    above = (scores > least).nonzero()[:, 0]
    above = above[scores[above].argsort(descending=True, stable=True)[:k]]
    return torch.cat([above, (scores == least).nonzero()[: k - len(above), 0]])


def merge(parts: Sequence[Postings], folder: Path | None) -> Postings:
    """One of several, each of later documents than the one before; in files of `folder`, or in memory."""
    starts = running(sum((part[0].diff() for part in parts), torch.tensor(0)))
    sizes = zip(TYPES, (len(starts), int(starts[-1]), int(starts[-1])), strict=True)
    made = [torch.from_numpy(new_array(folder, name, count)) for name, count in sizes]
    made[0][:], first = starts, 0
    while first < len(starts) - 1:  # some words at a time, so that all is written in the order of the file
        last = max(first + 1, int(torch.searchsorted(starts, starts[first] + AT_ONCE, right=True)) - 1)
        words = [torch.arange(first, last).repeat_interleave(part[0][first : last + 1].diff()) for part in parts]
        order = torch.cat(words).argsort(stable=True)
        for column in (1, 2):
            found = torch.cat([part[column][int(part[0][first]) : int(part[0][last])] for part in parts])
            made[column][int(starts[first]) : int(starts[last])] = found[order]
        first = last
    return made


def running(counts: Tensor) -> Tensor:
    """Where each begins, and the last ends: [n] -> [n + 1]."""
    return torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])


def new_array(folder: Path | None, name: str, count: int) -> Any:
    if folder is None:
        return np.empty(count, TYPES[name])
    folder.mkdir(exist_ok=True)
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", TYPES[name], (count,))
