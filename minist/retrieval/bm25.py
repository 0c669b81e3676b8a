"""BM25 (Robertson and Zaragoza 2009), the word-matching baseline that an encoder has to beat.

    score(q, d) = sum over words w of q:  idf(w) * f(w, d) (k1 + 1) / (f(w, d) + k1 (1 - b + b |d| / average |d|))
    idf(w)      = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))

f(w, d) counts w in d, n(w) counts the documents that hold w, N all documents. What w adds to the score of d is known
before there is a query: so BM25 is a sparse embedding that needs no training, and is saved as one."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minist.files import complete_folder, read_json, write_json
from minist.retrieval.sparse_index import SparseIndex

WORD = re.compile(r"[^\W_]+")  # letters and digits of all scripts
SEAL = "BM25"  # where a sparse index has the hash of a model


def words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


class BM25:
    """An index of documents."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        size, self.columns = len(documents), dict[str, int]()  # word -> its column, in the order they come
        texts = [[self.columns.setdefault(word, len(self.columns)) for word in words(text)] for text in documents]
        lengths, many = np.array(list(map(len, texts)), np.int64), max(size, 1)
        places = np.fromiter(chain.from_iterable(texts), np.int64) * many + np.repeat(np.arange(size), lengths)
        pairs, f = np.unique(places, return_counts=True)  # each word of each document once, by word, then by document
        columns, rows = np.divmod(pairs, many)
        n = np.bincount(columns, minlength=len(self.columns))
        idf = np.log(1 + (size - n + 0.5) / (n + 0.5))
        norm = k1 * (1 - b + b * lengths / (lengths.sum() / many or 1.0))  # a long document holds more words by chance
        weights = idf[columns] * f * (k1 + 1) / (f + norm[rows])
        self.index = SparseIndex(len(self.columns), SEAL)
        self.index.size = size
        self.index.postings = [torch.from_numpy(x) for x in (np.append(0, n.cumsum()), rows, weights)]

    def save(self, folder: Path) -> None:
        """The weights, rounded to float32, and words.json in the order of their columns. Nothing for a taken name."""
        with complete_folder(folder) as partial:
            self.index.save(partial / "weights")
            write_json(partial / "words.json", list(self.columns))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A saved index, memory-mapped. ValueError for a damaged one."""
        made = cls([])
        made.index = SparseIndex.load(folder / "weights", SEAL)
        made.columns = {word: column for column, word in enumerate(read_json(folder / "words.json"))}
        return made

    def scores(self, query: str) -> Tensor:
        """Of every document [N], in float64."""
        scores, (starts, rows, weights) = torch.zeros(self.index.size, dtype=torch.float64), self.index.postings
        for column in (self.columns[word] for word in words(query) if word in self.columns):  # twice counts twice
            place = slice(*starts[column : column + 2].tolist())
            scores.index_add_(0, rows[place], weights[place].double())
        return scores
