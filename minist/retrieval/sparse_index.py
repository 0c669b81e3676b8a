"""Exact search among sparse embeddings by an inverted index: of each word its postings, the documents that hold it.
    score(q, d) = sum over the words w of q:  q_w d_w
A product with the matrix of all embeddings reads all weights of all documents; this reads those of the query's words.
    index.json      {"model": a hash, "size": N}
    starts.npy      [V + 1] int64: the postings of word w are those from starts[w] to starts[w + 1]
    documents.npy   [P] int32, ascending within each word
    weights.npy     [P] float32"""

import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
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
    scores, rows = SparseIndex.load("folder", seal).search(queries, 10)"""

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
        """Write the index, and after it `more` documents, a block of them in memory. ValueError for a taken name."""
        if Path(folder).exists():
            raise ValueError(f"{folder} is there already: save the index under another name")
        size, parts = self.size, [self.postings]
        with complete_folder(Path(folder)) as partial:
            for block in more:
                (folder_of_part := partial / "parts" / f"{len(parts)}").mkdir(parents=True)
                parts.append(merge([self._part(block, size)], folder_of_part))
                size += len(block)
            merge(parts, partial)
            shutil.rmtree(partial / "parts", ignore_errors=True)  # there are none without `more`
            write_json(partial / "index.json", {"model": self.model, "size": size})

    def _part(self, block: Tensor, first: int) -> Postings:
        """Of a block [n, V] whose documents are numbered from `first` on."""
        rows, words = (block := self._checked(block)).indices()
        order = words.argsort(stable=True)  # so within each word the documents stay in order
        starts = F.pad(torch.bincount(words, minlength=self.width).cumsum(0), (1, 0))
        return starts, (rows[order] + first).int(), block.values()[order].float()

    def _checked(self, embeddings: Tensor) -> Tensor:
        number("the width of the embeddings", embeddings.shape[-1], self.width, self.width)
        return embeddings.to_sparse().coalesce()

    def search(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Scores [Q, k] float32 and numbers [Q, k] of the best documents for queries [Q, V], sparse.
        Best first, of equal scores the lower number first; k is `top_k`, or all. As a product of all would rank them:
        documents that share no word have the score 0, before negative ones. NaN comes last, as minus infinity."""
        queries, k = self._checked(queries), min(whole("top_k", top_k, 1), self.size)
        scores, rows = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.long)
        counts = torch.bincount(queries.indices()[0], minlength=len(queries)).tolist()
        parts = zip(queries.indices()[1].split(counts), queries.values().split(counts), strict=True)
        for i, (words, weights) in enumerate(parts):
            found = torch.zeros(self.size)
            for word, weight in zip(words.tolist(), weights.tolist(), strict=True):
                place = slice(*self.postings[0][word : word + 2].tolist())
                found.index_add_(0, self.postings[1][place], self.postings[2][place], alpha=weight)
            scores[i], rows[i] = best(found.nan_to_num_(-torch.inf, torch.inf, -torch.inf), k)
        return scores, rows


def best(found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest k of scores [N] and their numbers, best first, of equal ones the lower first."""
    # the best of k groups are k documents: no score below the least of them can be wanted, so few are sorted
    scores = found.numpy()
    of_groups = scores[: len(scores) // GROUP * GROUP].reshape(GROUP, -1).max(0)  # across, as memory is read fastest
    least = np.partition(of_groups, -k)[-k] if 0 < k <= len(of_groups) else -np.inf
    above = np.flatnonzero(scores > least)
    above = above[np.argsort(-scores[above], kind="stable")[:k]]
    rows = torch.from_numpy(np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]]))
    return found[rows], rows


def merge(parts: Sequence[Postings], folder: Path | None) -> Postings:
    """One of several, each of later documents than the one before; in files of `folder`, or in memory."""
    starts, made = F.pad(sum((part[0].diff() for part in parts), torch.tensor(0)).cumsum(0), (1, 0)), []
    for (name, dtype), size in zip(TYPES.items(), (len(starts), int(starts[-1]), int(starts[-1])), strict=True):
        file = folder and folder / f"{name}.npy"
        array = np.lib.format.open_memmap(file, "w+", dtype, (size,)) if file else np.empty(size, dtype)
        made.append(torch.from_numpy(array))
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
