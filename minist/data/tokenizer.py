"""Text to token ids, on the `tokenizers` library.

tokenizer.json may carry truncation and padding that somebody's last call left in it. Both are
dropped on load: we never pad, and the maximum length is ours.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from minist.data.packed import Packed

NO_LIMIT = 10**9  # the maximum length of a tokenizer that knows none; tokenizer_config.json writes 1e30 for it
PIECE = 1024  # texts whose Encodings, which are many times as large, are held at once
Text = str | tuple[str, str]  # a pair goes through the encoder as one sequence: [CLS] a [SEP] b [SEP]


class Tokenized(NamedTuple):
    """Token ids of N texts, end to end, on the CPU."""

    input_ids: Tensor  # [T] int64
    token_type_ids: Tensor  # [T] int64
    lengths: Tensor  # [N] int64
    was_cut: Tensor  # [N] bool: longer than the maximum, so its end is missing

    def packed(self, prompt_length: int = 0) -> Packed:
        """As a Packed; the first `prompt_length` tokens of each text are its prompt."""
        prompts = torch.full_like(self.lengths, prompt_length)
        return Packed.of(self.input_ids, self.lengths, self.token_type_ids, prompts)


class Tokenizer:
    """A trained tokenizer and the number of tokens at which texts are cut."""

    def __init__(self, backend: Backend, max_length: int, special_tokens: bool = True) -> None:
        """`max_length` counts special tokens too. ValueError if it leaves no room for text.

        `special_tokens` False puts none round a text, as StaticEmbedding wants it.
        """
        backend.no_padding()
        self.backend = backend
        self.max_length = max_length
        self.special_tokens = special_tokens
        self.config: dict[str, Any] = {}  # tokenizer_config.json as read, so that saving loses nothing
        self.has_types = True  # the second text of a pair has token type 1
        specials = backend.num_special_tokens_to_add(is_pair=True)
        if max_length <= specials:
            raise ValueError(f"max_length is {max_length}: a pair alone has {specials} special tokens, use more")
        backend.enable_truncation(max_length, strategy="longest_first")
        added = backend.get_added_tokens_decoder()
        self.special_ids = {i for i, token in added.items() if token.special}

    def __call__(self, texts: Sequence[Text], prompt: str = "") -> Tokenized:
        """Tokenize; `prompt` is put before each text, or before the first text of a pair."""
        if prompt:
            texts = [prompt + t if isinstance(t, str) else (prompt + t[0], t[1]) for t in texts]
        pieces = [self._tokenize(texts[start : start + PIECE]) for start in range(0, max(len(texts), 1), PIECE)]
        return Tokenized(*map(torch.cat, zip(*pieces, strict=True)))

    def _tokenize(self, texts: Sequence[Text]) -> Tokenized:
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=self.special_tokens)
        ids = [e.ids for e in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        # overflowing is slow to ask for, and a shorter text has none
        cut = [n >= self.max_length and bool(e.overflowing) for n, e in zip(lengths, encodings, strict=True)]
        has_pairs = self.has_types and any(not isinstance(t, str) for t in texts)
        types = _flat((e.type_ids for e in encodings), lengths) if has_pairs else np.zeros(lengths.sum(), np.int64)
        return Tokenized(
            torch.from_numpy(_flat(ids, lengths)),
            torch.from_numpy(types),
            torch.from_numpy(lengths),
            torch.tensor(cut, dtype=torch.bool),
        )

    def prompt_length(self, prompt: str) -> int:
        """Leading tokens that belong to `prompt`, [CLS] among them; a closing special token does not count."""
        if not prompt:
            return 0
        ids = self.backend.encode(prompt, add_special_tokens=self.special_tokens).ids
        return len(ids) - 1 if ids and ids[-1] in self.special_ids else len(ids)

    @property
    def vocab_size(self) -> int:
        """Number of ids, V."""
        return self.backend.get_vocab_size()

    def to_json(self) -> str:
        """The text of a tokenizer.json, without our truncation, unless there is no other file to write it to."""
        content = json.loads(self.backend.to_str())
        if self.special_tokens or self.max_length == NO_LIMIT:
            content["truncation"] = None
        return json.dumps(content | {"padding": None}, ensure_ascii=False, indent=2)


def _flat(lists: Iterable[list[int]], lengths: np.ndarray) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.int64, int(lengths.sum()))
