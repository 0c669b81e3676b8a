"""Pairs of texts from texts that were tokenized once: who is paired with whom, and what a pair looks like.

texts            a: how much protein     b: it depends     c: two cups
pairs            (a, b)  (a, c)
packed           [CLS] how much protein [SEP] it depends [SEP]  [CLS] how much protein [SEP] two cups [SEP]
token types          0   0    0       0     0  1       1     1      0   0    0       0     0   1    1     1

A query that is ranked with a thousand documents is tokenized once, and the thousand pairs are put together by index."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from minist.data.packed import Packed, ranges
from minist.data.tokenizer import NO_LIMIT, Tokenizer, text_fault
from minist.data.transforms import uniform


def checked_pairs(pairs: Any) -> tuple[list[tuple[str, str]], bool]:
    """`pairs` as a list of tuples, and whether it was one pair alone. ValueError names the first that is no pair."""
    given = pairs.tolist() if isinstance(pairs, np.ndarray) else pairs
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise ValueError(f"pairs is {repr(given)[:60]}: give a list of pairs of texts")
    many = list(given)
    is_one = isinstance(next(iter(many), None), str)  # a tuple, or a list, of two texts
    many = [many] if is_one else many
    for i, pair in enumerate(many):
        fault = text_fault(tuple(pair) if isinstance(pair, list | tuple) else pair, may_pair=True)
        if fault or isinstance(pair, str):
            raise ValueError(f"pairs[{i}] is {fault or repr(pair)[:60]}: a pair is a tuple or list of two texts")
    return [(first, second) for first, second in many], is_one


class Pairing:
    """Joins pairs as `tokenizer` would have tokenized them, special tokens and the cut at its max_length included."""

    def __init__(self, tokenizer: Tokenizer, token_types: bool) -> None:
        """`token_types`: the encoder tells the two texts apart. ValueError for a tokenizer that drops a letter."""
        self.whole = tokenizer  # its max_length may still be set
        # of one text, whole: how a pair is cut depends on both, and must not count special tokens
        self.tokenizer = Tokenizer(Backend.from_str(tokenizer.backend.to_str()), NO_LIMIT, special_tokens=False)
        pair = self.tokenizer.backend.encode("x", "x")
        if not {0, 1} <= set(pair.sequence_ids):
            raise ValueError("the tokenizer makes no token of the letter x: it cannot show how it joins pairs")
        places, has_types = pair.sequence_ids, token_types and tokenizer.has_types
        starts = [0, places.index(0), len(places) - places[::-1].index(0), places.index(1)]
        bounds = [*starts, len(places) - places[::-1].index(1), len(places)]
        self.ids = torch.tensor(pair.ids)  # of (x, x), whose parts 0, 2 and 4 are special tokens: [CLS] x [SEP] x [SEP]
        self.types = torch.tensor(pair.type_ids) * has_types
        self.bounds = torch.tensor(bounds)  # where its five parts begin, and the end
        self.first_type, self.second_type = int(self.types[bounds[1]]), int(self.types[bounds[3]])

    def read(self, pairs: Sequence[tuple[str, str]], prompt: str) -> tuple[Packed, int]:
        """The pairs, packed, and how many were cut; `prompt` is put before the first text of each."""
        firsts = {text: i for i, text in enumerate(dict.fromkeys(a for a, _ in pairs))}  # each text once
        seconds = {text: i for i, text in enumerate(dict.fromkeys(b for _, b in pairs))}
        a, b = self.tokenizer(list(firsts), prompt).packed(), self.tokenizer(list(seconds)).packed()
        i = torch.tensor([firsts[text] for text, _ in pairs], dtype=torch.long)
        j = torch.tensor([seconds[text] for _, text in pairs], dtype=torch.long)
        return self.join(a, b, i, j), int(self.is_cut(a.lengths[i], b.lengths[j]).sum())

    @property
    def room(self) -> int:
        """Tokens for both texts of a pair."""
        return self.whole.max_length - int(self.bounds.diff()[::2].sum())  # every other part is special tokens

    def is_cut(self, n: Tensor, m: Tensor) -> Tensor:
        """Whether pairs of texts of n and m tokens are too long, [P], [P] -> [P]."""
        return n + m > self.room

    def join(self, a: Packed, b: Packed, first: Tensor, second: Tensor) -> Packed:
        """The pairs of text first[p] of `a` and text second[p] of `b`, [P], [P] -> P texts."""
        n, m = kept_lengths(a.lengths[first], b.lengths[second], self.room)
        stream = torch.cat([self.ids, a.input_ids, b.input_ids])  # of all parts: a pair is five ranges of it
        texts = [(a, self.first_type), (b, self.second_type)]
        types = torch.cat([self.types, *(torch.full_like(text.input_ids, kind) for text, kind in texts)])
        starts = self.bounds[:-1].repeat(len(first), 1)  # [P, 5]
        starts[:, 1] = len(self.ids) + a.cu_seqlens[first]
        starts[:, 3] = len(self.ids) + len(a.input_ids) + b.cu_seqlens[second]
        lengths = self.bounds.diff().repeat(len(first), 1)
        lengths[:, 1], lengths[:, 3] = n, m
        tokens = ranges(starts.flatten(), lengths.flatten())
        return Packed.of(stream[tokens], lengths.sum(1), types[tokens])


def kept_lengths(n: Tensor, m: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """How many tokens stay of the first and the second text of pairs that are n and m long, [P] each, "longest first":
    the longer text loses its last tokens until both fit. An odd place goes to the longer, of equals to the second."""
    less = torch.minimum(torch.minimum(n, m), torch.tensor(room // 2))  # the shorter text; the longer has the rest
    kept_n, kept_m = torch.where(n > m, room - less, less), torch.where(n > m, less, room - less)
    fits = n + m <= room
    return torch.where(fits, n, kept_n), torch.where(fits, m, kept_m)


class RowPairs(NamedTuple):
    """The pairs of some rows, those of a row side by side."""

    queries: Tensor  # [P] places of their rows
    texts: Tensor  # [P] numbers of texts: those of column 1 row by row, then those of column 2, ..
    counts: Tensor  # [rows] pairs of each row


def pair_rows(columns: Sequence[Tensor]) -> RowPairs:
    """Each row's query with all its texts, column after column. `columns`: of each, the texts in each row, [rows]."""
    rows = torch.cat([torch.arange(len(n)).repeat_interleave(n) for n in columns])  # of each text
    order = rows.argsort(stable=True)  # stable: column after column within a row
    return RowPairs(rows[order], order, rows.bincount(minlength=len(columns[0])))


def add_negatives(pairs: RowPairs, rows: Tensor, most: int | None, seed: int, step: int) -> RowPairs:
    """After each row's own pairs, its query with up to `most` texts of the other rows (None: all), none twice.
    `rows` [rows] are the numbers of the rows in the data set: the draw depends on them, `seed` and `step` alone, and
    not on how the rows are ordered and shared among ranks."""
    owner, place = torch.empty_like(pairs.texts), torch.empty_like(pairs.texts)  # of each text: its row, where in it
    owner[pairs.texts], place[pairs.texts] = pairs.queries, ranges(torch.zeros_like(pairs.counts), pairs.counts)
    names = (rows[owner] * 2**20 + place)[None]  # of a text, in whatever order the rows are
    keys = torch.from_numpy(uniform(seed, step, rows[:, None].numpy(), names.numpy()))  # [rows, texts]
    keys[owner == torch.arange(len(rows))[:, None]] = -1.0  # a row's own texts are no negatives
    kept, texts = keys.topk(len(owner) if most is None else min(most, len(owner)), dim=1)  # a draw, none twice
    drawn = kept >= 0
    queries = torch.cat([pairs.queries, torch.arange(len(rows)).repeat_interleave(drawn.sum(1))])
    order = queries.argsort(stable=True)  # own pairs first
    return RowPairs(queries[order], torch.cat([pairs.texts, texts[drawn]])[order], pairs.counts + drawn.sum(1))
