"""BM25 (Robertson and Zaragoza 2009), the word-matching baseline that an encoder has to beat.

    score(q, d) = sum over words w of q:  idf(w) * f(w, d) (k1 + 1) / (f(w, d) + k1 (1 - b + b |d| / average |d|))
    idf(w)      = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))

f(w, d) counts w in d, n(w) counts the documents that hold w, N all documents. What w adds to d is known before there is
a query: so it is a weight of the document, and BM25 a sparse embedding that needs no training.

    words.json   the words, in the order of their columns; what else a folder holds is a SparseIndex of the weights
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minist.files import complete_folder, read_json, write_json
from minist.retrieval.sparse_index import SparseIndex

WORD = re.compile(r"[^\W_]+")  # letters and digits of all scripts
SEAL = "BM25"  # stands in the index where that of a model would


def words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


class BM25:
    """An index of documents."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self.size, self.columns = len(documents), dict[str, int]()  # word -> its column
        lengths = np.zeros(self.size, np.int64)
        found = np.fromiter(self._columns_of(documents, lengths), np.int64)
        many = max(self.size, 1)
        # of each word and each document that holds it one number, in this order, and how often it is there
        pairs, f = np.unique(found * many + np.repeat(np.arange(self.size), lengths), return_counts=True)
        columns, rows = np.divmod(pairs, many)
        n = np.bincount(columns, minlength=len(self.columns))
        idf = np.log(1 + (self.size - n + 0.5) / (n + 0.5))
        average = lengths.sum() / many or 1.0
        norm = k1 * (1 - b + b * lengths / average)  # a long document holds more words by chance
        weights = idf[columns] * f * (k1 + 1) / (f + norm[rows])
        self.postings = [torch.from_numpy(x) for x in (np.append(0, n.cumsum()), rows, weights)]  # as a SparseIndex has

    def _columns_of(self, documents: Sequence[str], lengths: np.ndarray) -> Iterator[int]:
        """The columns of all words, new ones numbered as they come; `lengths` [N] is filled."""
        for i, text in enumerate(documents):
            found = words(text)
            lengths[i] = len(found)
            for word in found:
                yield self.columns.setdefault(word, len(self.columns))

    def save(self, folder: Path) -> None:
        """Weights are rounded to float32. ValueError for a taken name."""
        index = SparseIndex(len(self.columns), SEAL)
        starts, rows, weights = self.postings
        index.size, index.postings = self.size, (starts, rows.int(), weights.float())
        with complete_folder(folder) as partial:
            index.save(partial / "weights")
            write_json(partial / "words.json", list(self.columns))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A saved index, memory-mapped. ValueError: damaged."""
        index, made = SparseIndex.load(folder / "weights", SEAL), cls([])
        made.columns = {word: column for column, word in enumerate(read_json(folder / "words.json"))}
        made.size, made.postings = index.size, list(index.postings)
        return made

    def scores(self, query: str) -> Tensor:
        """Of every document [N], float64."""
        scores = torch.zeros(self.size, dtype=torch.float64)
        starts, documents, weights = self.postings
        for word in words(query):  # a word that stands twice counts twice
            if (column := self.columns.get(word)) is not None:
                place = slice(*starts[column : column + 2].tolist())
                scores.index_add_(0, documents[place], weights[place].double())
        return scores
