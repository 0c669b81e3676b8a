"""BM25 (Robertson and Zaragoza 2009), the word-matching baseline that an encoder has to beat.

    score(q, d) = sum over words w of q:  idf(w) * f(w, d) (k1 + 1) / (f(w, d) + k1 (1 - b + b |d| / average |d|))
    idf(w)      = ln(1 + (N - n(w) + 0.5) / (n(w) + 0.5))

f(w, d) counts w in d, n(w) counts the documents that hold w, N all documents.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from minist.data.texts import words


class BM25:
    """An index of documents."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words(text)) for text in documents]
        lengths = torch.tensor([sum(count.values()) for count in counts], dtype=torch.float64)
        norm = k1 * (1 - b + b * lengths / lengths.mean())  # a long document holds more words by chance
        found: dict[str, list[tuple[int, int]]] = {}  # word -> (document, how often it is there)
        for i, count in enumerate(counts):
            for word, frequency in count.items():
                found.setdefault(word, []).append((i, frequency))
        self.size = len(documents)
        self.postings: dict[str, tuple[Tensor, Tensor]] = {}  # word -> documents that hold it, and what it adds to each
        for word, pairs in found.items():
            rows, f = torch.tensor(pairs).T  # both int64
            idf = math.log(1 + (self.size - len(rows) + 0.5) / (len(rows) + 0.5))
            f = f.double()
            self.postings[word] = rows, idf * f * (k1 + 1) / (f + norm[rows])

    def scores(self, query: str) -> Tensor:
        scores = torch.zeros(self.size, dtype=torch.float64)  # of every document
        for word in words(query):  # a word that stands twice counts twice
            if word in self.postings:
                rows, weights = self.postings[word]
                scores[rows] += weights
        return scores
