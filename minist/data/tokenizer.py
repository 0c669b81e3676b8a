"""Text to token ids by `tokenizers`: never padded, and cut at our `max_length`, whatever tokenizer.json says."""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from minist.checks import whole
from minist.data.packed import Packed
from minist.data.rows import is_unicode
from minist.data.texts import Text, chunks, length_of

NO_LIMIT = 10**9  # the maximum length of a tokenizer that knows none
PIECE, CHARACTERS = 1024, 2**20  # texts, and characters of them, that are tokenized at once: Encodings are large
MARGIN = 64  # tokens behind the maximum which show that the end of a text is far away
THEIRS = {  # what is set on a tokenizer of transformers: it would mean nothing here
    "model_max_length": "set max_length",
    "truncation_side": "texts are cut at their end",
    "padding_side": "nothing is padded",
}
PLAIN = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])  # no special tokens, and yet token types
Texts = Sequence[Text]


def checked_texts(texts: str | Iterable[Text]) -> tuple[list[Text], bool]:
    """`texts` as a list, and whether it was one text alone. ValueError names the first that is no text or pair."""
    if isinstance(texts, Mapping | Set | bytes) or not isinstance(texts, Iterable):
        raise ValueError(f"texts is {_shown(texts)}: give a text or a list of texts")
    many: list[Text] = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(many):
        if fault := text_fault(text, may_pair=True):
            raise ValueError(f"texts[{i}] is {fault}")
    return many, isinstance(texts, str)


def text_fault(text: Any, may_pair: bool) -> str:
    """Why this is no text, or no pair of texts where one may stand; "" where it is one."""
    if isinstance(text, str):
        if is_unicode(text):  # the tokenizer wants UTF-8
            return ""
        place = next(i for i, letter in enumerate(text) if not is_unicode(letter))
        return f"{_shown(text)}, whose character {place} is half of a surrogate pair: it has no UTF-8"
    if may_pair and isinstance(text, tuple) and len(text) == 2:
        return text_fault(text[0], may_pair=False) or text_fault(text[1], may_pair=False)
    return f"{_shown(text)}: give a text" + ", or a tuple of two for a pair" * may_pair


def _shown(value: object) -> str:
    shown = " ".join(ascii(value).split())  # ascii: a half of a surrogate pair cannot be printed
    return shown if len(shown) < 60 else f"{shown[:60]}.."


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
        """`special_tokens` False puts none round a text, as StaticEmbedding wants it. ValueError for a `max_length`
        that leaves no room for text, and for a tokenizer that cannot read every text."""
        backend.no_padding()
        backend.post_processor = backend.post_processor or PLAIN  # without one, encode_batch_fast forgets the types
        self.backend, self.special_tokens = backend, special_tokens
        self.config: dict[str, Any] = {}  # tokenizer_config.json as read, so that saving loses nothing
        self.has_types = True  # the second text of a pair has token type 1
        self.longest = NO_LIMIT  # tokens that the encoder has positions for, see TextModel
        self.max_length = max_length
        self.special_ids = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        # characters that always end a word: before them a text may be cut, and the tokens in front stay the same
        words = backend.pre_tokenizer.pre_tokenize_str if backend.pre_tokenizer else lambda text: []
        self.word_ends = [end for end in " \n。" if any(stop == 1 for _, (_, stop) in words(f"字{end}字"))]
        try:
            ids = backend.encode("\ue000").ids  # a character that no vocabulary has
        except Exception as e:  # the library raises bare Exception
            raise ValueError(f"the tokenizer has no token for what it does not know: {e}") from None
        if max(ids, default=0) >= self.vocab_size:  # its unknown token can have an id of its own
            raise ValueError(f"the tokenizer gives id {max(ids)}, its vocabulary ends at {self.vocab_size - 1}")

    def __setattr__(self, name: str, value: object) -> None:
        if name in THEIRS:
            raise ValueError(f"a tokenizer has no {name} here: {THEIRS[name]}")
        super().__setattr__(name, value)

    @property
    def max_length(self) -> int:
        """Tokens at which a text is cut, special ones included."""
        truncation: Any = self.backend.truncation  # turned on by the setter
        return int(truncation["max_length"])

    @max_length.setter
    def max_length(self, length: int) -> None:
        specials = self.backend.num_special_tokens_to_add(is_pair=True)
        what = f"max_length, of which a pair's special tokens take {specials},"
        self.backend.enable_truncation(whole(what, length, specials + 1, self.longest), strategy="longest_first")

    @cached_property
    def vocab_size(self) -> int:
        """The largest id + 1, V."""
        count = self.backend.get_vocab_size()  # of tokens; ids may have gaps
        has_gaps = not all(map(self.backend.id_to_token, range(count)))  # ten times as fast as the vocabulary itself
        return max(self.backend.get_vocab().values()) + 1 if has_gaps else count

    def prompt_length(self, prompt: str) -> int:
        """Leading tokens that belong to `prompt`, [CLS] among them; a closing special token does not count."""
        ids = self.backend.encode(prompt, add_special_tokens=self.special_tokens).ids if prompt else []
        return len(ids) - 1 if ids and ids[-1] in self.special_ids else len(ids)

    def to_json(self) -> str:
        """The text of a tokenizer.json, without our truncation, unless there is no other file to write it to."""
        content = json.loads(self.backend.to_str())
        if self.special_tokens or self.max_length == NO_LIMIT:
            content["truncation"] = None
        return json.dumps(content | {"padding": None}, ensure_ascii=False, indent=2)

    def __call__(self, texts: Texts, prompt: str = "") -> Tokenized:
        """`prompt` is put before each text, or before the first text of a pair."""
        if prompt:
            texts = [prompt + t if isinstance(t, str) else (prompt + t[0], t[1]) for t in texts]
        return Tokenized(*map(torch.cat, zip(*map(self._tokenize, self._pieces(texts)), strict=True)))

    def _pieces(self, texts: Texts) -> list[list[Text]]:
        far = self._far  # of a longer text, no more is tokenized
        pieces = chunks(texts, PIECE, CHARACTERS, lambda text: min(length_of(text), far))
        return list(pieces) or [[]]  # no texts are one piece, so that there are tensors to be joined

    def _tokenize(self, texts: list[Text]) -> Tokenized:
        encodings, longest = self._encode(texts, self.special_tokens), self.max_length
        ids = [e.ids for e in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        # overflowing is slow to ask for, and a shorter text has none
        cut = [n >= longest and bool(e.overflowing) for n, e in zip(lengths, encodings, strict=True)]
        stream = np.fromiter(chain.from_iterable(ids), np.int64, lengths.sum())
        types = np.zeros_like(stream)
        if self.has_types and any(not isinstance(t, str) for t in texts):
            types = np.fromiter(chain.from_iterable(e.type_ids for e in encodings), np.int64, len(stream))
        return Tokenized(*map(torch.from_numpy, (stream, types, lengths, np.array(cut, bool))))

    @property
    def _far(self) -> int:
        return 1024 + 16 * self.max_length  # characters that are surely enough for so many tokens of a language

    def _encode(self, texts: Texts, special_tokens: bool) -> list[Encoding]:
        """As the library does, but of what is far longer than the maximum only the beginning is tokenized: whole words,
        about as many characters as can matter. All of it where no word ends, or where these are few tokens."""
        short, far = list(texts), self._far  # asked for once: the library makes a table of it each time
        long = {i: text for i, text in enumerate(texts) if length_of(text) > far}
        for i, text in long.items():
            single = text if isinstance(text, str) else ""
            end = max((single.rfind(end, 0, far) for end in self.word_ends), default=0)
            short[i] = single[:end] if end > 0 else single
        encodings: list[Encoding] = self.backend.encode_batch_fast(short, add_special_tokens=special_tokens)
        for i, text in long.items():
            if not isinstance(text, str):
                encodings[i] = self._encode_pair(*text)
            elif sum(map(len, encodings[i].overflowing)) < MARGIN:  # overflowing: the pieces behind the maximum
                encodings[i] = self.backend.encode(text, add_special_tokens=special_tokens)
        return encodings

    def _encode_pair(self, first: str, second: str) -> Encoding:
        """The library cuts a pair only after it has put together every part of the one with every part of the other:
        that takes a minute for two books. So each is cut alone, by the same rule, "longest first"."""
        kept = self._encode([first, second], special_tokens=False)
        if min(map(_tokens, kept)) > self.max_length:  # which one is longer decides about an odd token
            kept = [self.backend.encode(text, add_special_tokens=False) for text in (first, second)]
        room = self.max_length - self.backend.num_special_tokens_to_add(is_pair=True) * self.special_tokens
        n, m = map(_tokens, kept)
        less = min(n, m, room // 2)  # of the shorter one; the longer one takes what is left
        kept[n > m].truncate(less)
        kept[n <= m].truncate(room - less)
        return self.backend.post_process(kept[0], kept[1], add_special_tokens=self.special_tokens)


def _tokens(encoding: Encoding) -> int:
    """All tokens, those behind the maximum too, where there are no special ones."""
    return len(encoding) + sum(map(len, encoding.overflowing))
