"""What changes in a data set from epoch to epoch: words that are deleted or masked, pairs that are drawn.

Each is a function of (seed, epoch, row). It does not depend on the batch, the rank or the order in which rows come, so
a resumed run, and a run with more ranks, sees the same."""

from typing import NamedTuple

import numpy as np
import torch
from tokenizers.models import WordPiece
from torch import Tensor

from minist.checks import number
from minist.data.packed import Packed, ranges
from minist.data.tokenizer import Tokenizer

# the space before a word in sentencepiece; space, line end and tab in byte-level BPE
MARKS = (("▁",), ("Ġ", "Ċ", "ĉ"))  # in this order: with sentencepiece the letters of the other may occur
MASKS = ("[MASK]", "<mask>")


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele et al. 2014): uint64 numbers, neighbours among them, to ones that look random."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, epoch: int, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64 of the shape of `rows` and `draws`: number `draw` of each row. They are not drawn one
    after the other but computed from their arguments, so any of them can be had alone."""
    state = _mix(np.array([seed % 2**64], np.uint64))
    for part in (np.array([epoch]), rows, draws):
        state = _mix(state + part.astype(np.uint64))  # mixed in between: seed 1, row 2 is not seed 2, row 1
    return (state >> np.uint64(11)) * 2.0**-53  # a float64 holds 53 bits


def delete_words(
    packed: Packed, rows: Tensor, starts_word: Tensor, special: Tensor, ratio: float, seed: int, epoch: int
) -> Packed:
    """Delete each word with probability `ratio`, but never all of a text: the noise of TSDAE, ratio 0.6.
    Wang et al. 2021, arXiv:2104.06979. A word is a token that starts one and those that continue it; `starts_word` and
    `special`, both [V] bool, are what `word_starts` gives. Special tokens and those of a prompt stay. `rows` [N] are
    the texts' row numbers in the data set. On the CPU. ValueError if `ratio` is not in [0, 1]."""
    number("the ratio of deleted words", ratio, 0, 1)
    ids, texts = packed.input_ids, packed.text_ids
    fixed, starts = _find_words(packed, starts_word, special)
    words = texts[starts]  # the text of each word
    counts = words.bincount(minlength=packed.n)
    place = ranges(torch.zeros_like(counts), counts)  # of a word in its text
    draws = torch.from_numpy(uniform(seed, epoch, rows[words].numpy(), place.numpy()))
    highest = torch.zeros(packed.n, dtype=draws.dtype).scatter_reduce(0, words, draws, "amax")
    stays = (draws >= ratio) | (draws == highest[words])  # one always does: an empty text would have no embedding
    keep = fixed.clone()
    keep[~fixed] = stays[(starts.cumsum(0) - 1)[~fixed]]  # starts so far, less one: the number of a token's word
    lengths = texts[keep].bincount(minlength=packed.n)
    return Packed.of(ids[keep], lengths, packed.token_type_ids[keep], packed.prompt_lengths)


def _find_words(packed: Packed, starts_word: Tensor, special: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens are special or of a prompt, and which of the others start a word, [T] bool each."""
    ids = packed.input_ids
    fixed = special[ids] | (packed.position_ids < packed.prompt_lengths[packed.text_ids])
    first = packed.position_ids == 0
    first[1:] |= fixed[:-1]  # what follows a prompt or [CLS] starts a word, whatever token it is
    return fixed, ~fixed & (starts_word[ids] | first)


def word_starts(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Two tables of a vocabulary, [V] bool each: which tokens start a word, and which are special.
    In WordPiece ## continues a word; in byte-level BPE and sentencepiece a mark for the space before it starts one,
    and punctuation belongs to the word it touches. Where nothing is marked, every token is a word."""
    backend = tokenizer.backend
    vocabulary = backend.get_vocab()
    marks = next((m for m in MARKS if any(token.startswith(m) for token in vocabulary)), ("",))
    inner = backend.model.continuing_subword_prefix if isinstance(backend.model, WordPiece) else None
    starts = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    for token, i in vocabulary.items():
        starts[i] = token.startswith(marks) if inner is None else not token.startswith(inner)
    special = torch.zeros_like(starts)
    unknown = {vocabulary.get(token) for token in ("[UNK]", "<unk>")}  # stand for a word, and go like one
    special[sorted(tokenizer.special_ids - unknown)] = True
    return starts, special


class Vocabulary(NamedTuple):
    """What mask_words must know of it."""

    starts_word: Tensor  # [V] bool
    special: Tensor  # [V] bool; the unknown token too, of which there is nothing to learn
    ordinary: Tensor  # [O] ids, all others
    mask: int


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """ValueError for a tokenizer without a mask token."""
    known, own = tokenizer.backend.get_vocab(), tokenizer.config.get("mask_token")
    names = (own.get("content") if type(own) is dict else own, *MASKS)  # a table describes it
    mask = next((known[token] for token in names if token in known), None)
    if mask is None:
        raise ValueError(f"the tokenizer has no mask token, {' or '.join(MASKS)}: take a model that has one")
    starts_word, special = word_starts(tokenizer)
    special[[mask, *tokenizer.special_ids]] = True
    ordinary = torch.tensor(sorted(i for i in known.values() if not special[i]))
    return Vocabulary(starts_word, special, ordinary, mask)


def mask_words(
    packed: Packed, rows: Tensor, vocabulary: Vocabulary, ratio: float, whole_words: bool, seed: int, epoch: int
) -> tuple[Packed, Packed]:
    """Choose each word with probability `ratio`, to be guessed: BERT's task, ratio 0.15 (arXiv:1810.04805).
    Gives the texts, where of the chosen tokens 80% are the mask, 10% a random other, and 10% as they were; and the
    targets, the same texts with the ids of chosen tokens and -1 for all others. A word is chosen with all its tokens,
    or each by itself if not `whole_words`; none that is special or of a prompt. In the mean a text has the share
    `ratio` chosen, a short one may have none. `rows` [N] are the texts' row numbers in the data set. On the CPU."""
    ids, pieces = packed.input_ids, vocabulary.starts_word | (not whole_words)
    fixed, starts = _find_words(packed, pieces, vocabulary.special)
    places = 3 * packed.position_ids.numpy()[:, None] + np.arange(3) + 2**32  # far from the draws of delete_words
    draws = torch.from_numpy(uniform(seed, epoch, rows[packed.text_ids].numpy()[:, None], places))  # [T, 3]
    chosen = ~fixed
    chosen[~fixed] = (draws[starts, 0] < ratio)[(starts.cumsum(0) - 1)[~fixed]]  # a word goes by its first token's draw
    others = vocabulary.ordinary[(draws[:, 2] * len(vocabulary.ordinary)).long()]
    masked = torch.where(draws[:, 1] >= 0.9, others, ids)  # any token may be wrong: the model must look at all of them
    masked = masked.masked_fill(draws[:, 1] < 0.8, vocabulary.mask)
    hidden, targets = torch.where(chosen, masked, ids), torch.where(chosen, ids, -1)
    return packed._replace(input_ids=hidden), packed._replace(input_ids=targets)


def draw_pairs(n: int, ratio: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Partner row [n] and label [n] float of every row: the pairs of contrastive tension.
    One row in `ratio` is paired with itself, label 1, the others with another random row, label 0. Carlsson et al.
    2021, Semantic Re-tuning with Contrastive Tension. ValueError if there is no other row."""
    if ratio < 1 or (n < 2 and ratio > 1):
        raise ValueError(f"drawing pairs: {n} rows, ratio {ratio}: it takes 2 rows or more, and a ratio of 1 or more")
    rows = np.arange(n)
    partners = (uniform(seed, epoch, rows, np.array([0])) * (n - 1)).astype(np.int64)
    partners += partners >= rows  # 0 .. n - 2 without this row: any other one
    itself = uniform(seed, epoch, rows, np.array([1])).argsort()[: -(-n // ratio)]  # exactly so many, rounded up
    partners[itself] = itself
    return torch.from_numpy(partners), torch.from_numpy(partners == rows).float()
