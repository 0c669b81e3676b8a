"""Deleted and masked words, and drawn pairs, against loops; nothing depends on batch or order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import WORDS, sentences
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram, WordLevel
from tokenizers.processors import TemplateProcessing

from minist.data.packed import Packed
from minist.data.tokenizer import Tokenizer
from minist.data.transforms import delete_words, draw_pairs, mask_words, uniform, vocabulary_of, word_starts
from minist.training.config import TokenizerConfig
from minist.training.start import train_wordpiece

TEXTS = [*sentences(30, seed=2), "", WORDS[0], "unseen words here too", "☃ ☃ file"]
SPECIAL = ["<s>", "</s>", "<unk>", "<mask>"]


def wordpiece():
    return train_wordpiece(sentences(100), TokenizerConfig(vocab_size=45, max_length=64))


def framed(backend):
    """With <s> and </s> round every text, as RoBERTa has them."""
    backend.add_special_tokens(SPECIAL)
    ids = [(token, backend.token_to_id(token)) for token in SPECIAL[:2]]
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids)
    return Tokenizer(backend, 64)


def byte_level():
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        sentences(100), trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    )
    return framed(backend)


def sentencepiece():
    """With a letter among its pieces that means a tab in byte-level BPE."""
    pieces = {"<unk>", "▁", "ĉ", "Ġ"} | {letter for text in TEXTS for letter in text if letter not in " ☃"}
    scores = [(piece, -5.0) for piece in ("<unk>", *sorted(pieces - {"<unk>"}))] + [("▁re", -1.0), ("▁file", -1.0)]
    backend = Backend(Unigram(scores, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return framed(backend)


TOKENIZERS = {"wordpiece": wordpiece, "byte_level": byte_level, "sentencepiece": sentencepiece}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def texts_of(packed, tokenizer):
    """The tokens of each text."""
    tokens = [tokenizer.backend.id_to_token(i) for i in packed.input_ids.tolist()]
    bounds = packed.cu_seqlens.tolist()
    return [tokens[a:b] for a, b in pairwise(bounds)]


def words_of(tokens, marked_inside):
    """Tokens of one text without special tokens -> its words, as lists of tokens."""
    words = []
    for token in tokens:
        begins = not token.startswith("##") if marked_inside else token[0] in "Ġ▁"
        if begins or not words:
            words.append([])
        words[-1].append(token)
    return words


def delete(packed, tokenizer, ratio=0.6, seed=3, epoch=1, rows=None):
    starts, special = word_starts(tokenizer)
    rows = torch.arange(packed.n) if rows is None else rows
    return delete_words(packed, rows, starts, special, ratio, seed, epoch)


# ---------------------------------------------------------------- random numbers


def splitmix64(state):
    """The published generator, on python's integers: (its next number, its next state)."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = state
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31), state


def test_the_slow_splitmix64_gives_its_known_numbers():
    found, state = [], 1234567
    for _ in range(3):
        number, state = splitmix64(state)
        found.append(number)
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63])
def test_uniform_is_a_hash_of_its_arguments(seed):
    found = uniform(seed, 5, np.array([0, 3, 10**9]), np.array([2]))
    for row, number in zip((0, 3, 10**9), found, strict=True):
        state = splitmix64(seed % 2**64)[0]
        for part in (5, row, 2):
            state = splitmix64((state + part) % 2**64)[0]
        assert number == (state >> 11) / 2**53


def test_uniform_numbers_look_random():
    grid = np.stack([uniform(s, e, np.arange(200)[:, None], np.arange(50)) for s in range(3) for e in range(3)])
    assert 0 <= grid.min() < 1e-3
    assert 1 - 1e-3 < grid.max() < 1
    share = np.histogram(grid, 10, (0, 1))[0] / grid.size
    assert np.abs(share - 0.1).max() < 0.005
    assert len(np.unique(grid)) == grid.size
    for axis in range(3):  # neighbours in seed and epoch, row, or draw have nothing to do with each other
        a, b = np.delete(grid, 0, axis), np.delete(grid, -1, axis)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("name", "starting", "inside"),
    [
        ("wordpiece", ["read", "f", "[UNK]"], ["##e", "##t"]),
        ("byte_level", ["Ġread", "Ġf", "Ċ", "ĉ"], ["e", "read", ","]),
        ("sentencepiece", ["▁", "▁re", "▁file"], ["e", "ĉ", "Ġ"]),
    ],
)
def test_word_starts(name, starting, inside):
    tokenizer = TOKENIZERS[name]()
    starts, special = word_starts(tokenizer)
    assert len(starts) == len(special) == tokenizer.vocab_size
    vocabulary = tokenizer.backend.get_vocab()
    found = {token: bool(starts[vocabulary[token]]) for token in starting + inside if token in vocabulary}
    assert found == {token: token in starting for token in found}
    assert set(found.values()) == {True, False}
    frame = ("[CLS]", "[SEP]", "[PAD]", "[MASK]") if name == "wordpiece" else ("<s>", "</s>", "<mask>")
    assert {token for token, i in vocabulary.items() if special[i]} == set(frame)


def test_every_token_is_a_word_where_nothing_is_marked():
    backend = Backend(WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
    starts, _ = word_starts(Tokenizer(backend, 8))
    assert starts.tolist() == [True, True, True]


def test_words_are_deleted_whole(tokenizer):
    packed = tokenizer(TEXTS).packed()
    before, after = texts_of(packed, tokenizer), texts_of(delete(packed, tokenizer), tokenizer)
    split = sum(len(tokens) > 2 + len(text.split()) for tokens, text in zip(before, TEXTS, strict=True))
    assert split > 20  # most texts have words of several tokens, else this test shows little
    shortened = 0
    marked_inside = any(token.startswith("##") for tokens in before for token in tokens)
    for old, new in zip(before, after, strict=True):
        assert (new[0], new[-1]) == (old[0], old[-1])
        words = words_of(old[1:-1], marked_inside)
        left = new[1:-1]
        for word in words:  # each is there as a whole, in order, or not at all
            if left[: len(word)] == word:
                left = left[len(word) :]
        assert left == []
        assert bool(words) == (len(new) > 2)
        shortened += len(new) < len(old)
    assert shortened > 20


def test_fields_fit_together(tokenizer):
    packed = tokenizer([(text, "sort a list") for text in TEXTS]).packed()
    kept = delete(packed, tokenizer)
    assert torch.equal(kept.lengths, kept.text_ids.bincount(minlength=kept.n))
    assert kept.n == packed.n
    for i in range(kept.n):  # a token keeps its type: what is left comes in the same order in the whole
        old, new = packed.slice(i, i + 1), kept.slice(i, i + 1)
        whole = iter(zip(old.input_ids.tolist(), old.token_type_ids.tolist(), strict=True))
        assert all(token in whole for token in zip(new.input_ids.tolist(), new.token_type_ids.tolist(), strict=True))


def synthetic(n_texts=4000, words=5):
    """Texts of [special, then `words` words of two tokens, special], and their tables. Words: 2 3, 4 5, 6 7, .."""
    text = torch.tensor([0, *range(2, 2 + 2 * words), 1])
    starts = torch.tensor([True, True] + [True, False] * words)
    special = torch.zeros(2 + 2 * words, dtype=torch.bool)
    special[:2] = True
    return Packed.of(text.repeat(n_texts), torch.full((n_texts,), len(text))), starts, special


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 1.0])
def test_the_ratio_is_met(ratio):
    packed, starts, special = synthetic()
    kept = delete_words(packed, torch.arange(packed.n), starts, special, ratio, 0, 0)
    words = (kept.lengths - 2) // 2
    # of 5 words, 5 (1 - ratio) stay; where all would go, one stays
    assert words.float().mean().item() == pytest.approx(5 * (1 - ratio) + ratio**5, abs=0.05)
    assert words.min() >= 1
    assert torch.equal(kept.input_ids[kept.cu_seqlens[:-1]], torch.zeros(packed.n, dtype=torch.long))
    counts = kept.input_ids.bincount(minlength=12)
    assert torch.equal(counts[2::2], counts[3::2])  # both tokens of each word
    assert counts[2::2].max() - counts[2::2].min() < 250  # every word stays as often


def test_depends_on_seed_epoch_and_row_alone():
    packed, starts, special = synthetic(50)

    def ids(rows, seed=1, epoch=2):
        part = delete_words(packed.slice(0, len(rows)), torch.tensor(rows), starts, special, 0.6, seed, epoch)
        return [x.tolist() for x in part.input_ids.split(part.lengths.tolist())]

    whole = ids(list(range(50)))
    assert ids([7, 3, 40, 7]) == [whole[7], whole[3], whole[40], whole[7]]  # other batch, other order
    assert ids(list(range(50)), seed=2) != whole
    assert ids(list(range(50)), epoch=3) != whole
    assert ids(list(range(50, 100))) != whole


def test_a_prompt_stays(tokenizer):
    prompt = "read the file: "
    length = tokenizer.prompt_length(prompt)
    packed = tokenizer(TEXTS, prompt).packed(length)
    kept = delete(packed, tokenizer, ratio=1.0)
    assert torch.equal(kept.prompt_lengths, packed.prompt_lengths)
    for old, new in zip(texts_of(packed, tokenizer), texts_of(kept, tokenizer), strict=True):
        assert new[:length] == old[:length]
        assert new[-1] == old[-1]
        assert (len(new) > length + 1) == (len(old) > length + 1)  # beside the prompt, a word of the text stays


def test_no_texts():
    packed, starts, special = synthetic(1)
    assert delete_words(packed.slice(0, 0), torch.arange(0), starts, special, 0.6, 0, 0).n == 0


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_ratio_out_of_range(ratio):
    packed, starts, special = synthetic(1)
    with pytest.raises(ValueError, match=r"ratio of deleted words is .*: use a number at least 0 and at most 1"):
        delete_words(packed, torch.arange(1), starts, special, ratio, 0, 0)


# ---------------------------------------------------------------- masks


def mask(packed, tokenizer, rows=None, ratio=0.15, whole_words=True, seed=3, epoch=1):
    rows = torch.arange(packed.n) if rows is None else rows
    return mask_words(packed, rows, vocabulary_of(tokenizer), ratio, whole_words, seed, epoch)


def many(tokenizer, prompt=""):
    texts = [*sentences(3000, seed=5, longest=20), *TEXTS]
    return tokenizer(texts, prompt).packed(tokenizer.prompt_length(prompt))


@pytest.mark.parametrize("whole_words", [True, False])
def test_shares_of_masked_tokens(tokenizer, whole_words):
    packed, vocabulary = many(tokenizer), vocabulary_of(tokenizer)
    masked, targets = mask(packed, tokenizer, whole_words=whole_words)
    before, after, chosen = packed.input_ids, masked.input_ids, targets.input_ids >= 0
    may = ~vocabulary.special[before]
    assert may.sum() > 50_000
    assert not (chosen & ~may).any()
    assert chosen[may].float().mean().item() == pytest.approx(0.15, abs=0.005)
    assert torch.equal(targets.input_ids, torch.where(chosen, before, -1))
    assert torch.equal(before[~chosen], after[~chosen])
    old, new = before[chosen], after[chosen]
    is_mask = new == vocabulary.mask
    assert is_mask.float().mean().item() == pytest.approx(0.8, abs=0.01)
    by_chance = 0.1 / len(vocabulary.ordinary)  # a random token may be the same one
    assert (new == old).float().mean().item() == pytest.approx(0.1 + by_chance, abs=0.01)
    others = new[~is_mask & (new != old)]
    assert not vocabulary.special[others].any()
    assert len(others.unique()) > 0.9 * len(vocabulary.ordinary)
    for field in ("token_type_ids", "cu_seqlens", "text_ids", "position_ids", "prompt_lengths", "max_seqlen"):
        assert all(
            torch.equal(torch.as_tensor(x), torch.as_tensor(getattr(packed, field)))
            for x in (getattr(masked, field), getattr(targets, field))
        )


def test_words_are_masked_whole(tokenizer):
    packed = tokenizer(TEXTS).packed()
    unknown = [tokenizer.backend.token_to_id(token) for token in ("[UNK]", "<unk>")]
    marked_inside = any(token.startswith("##") for tokens in texts_of(packed, tokenizer) for token in tokens)
    mixed = {}
    for whole_words in (True, False):
        targets = mask(packed, tokenizer, ratio=0.5, whole_words=whole_words)[1]
        found = []
        for i in range(packed.n):
            ids, chosen = packed.slice(i, i + 1).input_ids[1:-1].tolist(), targets.slice(i, i + 1).input_ids[1:-1] >= 0
            words = words_of([tokenizer.backend.id_to_token(i) for i in ids], marked_inside)
            parts = zip(words, chosen.split([len(word) for word in words]), strict=True)
            found += [len(set(part.tolist())) > 1 for word, part in parts if not {*ids} & {*unknown}]
        mixed[whole_words] = sum(found)
    assert mixed[True] == 0
    assert mixed[False] > 10


def test_masks_depend_on_seed_epoch_and_row_alone(tokenizer):
    packed = tokenizer(TEXTS).packed()

    def ids(rows, **changed):
        parts = mask(packed.take(torch.tensor(rows)), tokenizer, torch.tensor(rows), ratio=0.5, **changed)
        return [[x.tolist() for x in part.input_ids.split(part.lengths.tolist())] for part in parts]

    rows = list(range(packed.n))
    whole = ids(rows)
    assert ids([7, 3, 20, 7]) == [[part[i] for i in (7, 3, 20, 7)] for part in whole]  # other batch, other order
    for changed in ({"seed": 4}, {"epoch": 2}):
        assert sum(a != b for a, b in zip(whole[1], ids(rows, **changed)[1], strict=True)) > 20
    twice = mask(packed.take(torch.tensor([7, 7])), tokenizer, torch.tensor([7, 8]), ratio=0.5)[1]
    assert twice.slice(0, 1).input_ids.tolist() != twice.slice(1, 2).input_ids.tolist()  # one text, two row numbers


def test_masks_and_deleted_words_have_nothing_to_do_with_each_other(tokenizer):
    packed = many(tokenizer)
    kept = delete(packed, tokenizer, ratio=0.5)
    assert (mask(kept, tokenizer)[1].input_ids >= 0).sum().item() == pytest.approx(
        0.15 * (~vocabulary_of(tokenizer).special[kept.input_ids]).sum().item(), rel=0.05
    )


@pytest.mark.parametrize("ratio", [0.15, 1.0])
def test_a_prompt_is_not_masked(tokenizer, ratio):
    prompt = "read the file: "
    packed, length = many(tokenizer, prompt), tokenizer.prompt_length(prompt)
    chosen = mask(packed, tokenizer, ratio=ratio)[1].input_ids >= 0
    assert not chosen[packed.position_ids < length].any()
    may = ~vocabulary_of(tokenizer).special[packed.input_ids] & (packed.position_ids >= length)
    assert chosen.sum() == may.sum() if ratio == 1 else 0 < chosen.sum() < 0.2 * may.sum()


def test_nothing_to_mask(tokenizer):
    for packed in (tokenizer([]).packed(), tokenizer(["", ""]).packed()):
        masked, targets = mask(packed, tokenizer, ratio=1.0)
        assert torch.equal(masked.input_ids, packed.input_ids)
        assert (targets.input_ids == -1).all()


def test_the_mask_token(tokenizer):
    vocabulary, known = vocabulary_of(tokenizer), tokenizer.backend.get_vocab()
    assert vocabulary.mask == known.get("[MASK]", known.get("<mask>"))
    tokenizer, other = Tokenizer(tokenizer.backend, 64), int(vocabulary.ordinary[7])
    token = tokenizer.backend.id_to_token(other)
    for named in (token, {"content": token, "lstrip": True}):  # what tokenizer_config.json says goes first
        tokenizer.config["mask_token"] = named
        assert vocabulary_of(tokenizer).mask == other
        assert vocabulary_of(tokenizer).special[other]


def test_no_mask_token():
    backend = Backend(WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
    with pytest.raises(ValueError, match=r"has no mask token, \[MASK\] or <mask>: take a model that has one"):
        vocabulary_of(Tokenizer(backend, 8))


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize(("n", "ratio"), [(2, 2), (7, 3), (100, 8), (1000, 1)])
def test_one_row_in_ratio_is_paired_with_itself(n, ratio):
    partners, labels = draw_pairs(n, ratio, 5, 1)
    assert partners.shape == labels.shape == (n,)
    assert labels.dtype == torch.float32
    assert torch.equal(labels, (partners == torch.arange(n)).float())
    assert labels.sum() == -(-n // ratio)
    assert partners.min() >= 0
    assert partners.max() < n


def test_partners_are_spread_evenly():
    n = 50
    counts = torch.zeros(n, n)
    for epoch in range(2000):
        partners, _ = draw_pairs(n, 5, 0, epoch)
        counts[torch.arange(n), partners] += 1
    share = counts / 2000
    itself = share.diagonal()
    assert (itself - 1 / 5).abs().max() < 0.04
    others = share[~torch.eye(n, dtype=torch.bool)]
    assert others.min() > 0.2 * 0.8 / (n - 1)
    assert others.max() < 3 * 0.8 / (n - 1)


def test_pairs_depend_on_seed_and_epoch():
    first = draw_pairs(30, 4, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, draw_pairs(30, 4, 1, 2), strict=True))
    assert not torch.equal(first[0], draw_pairs(30, 4, 2, 2)[0])
    assert not torch.equal(first[0], draw_pairs(30, 4, 1, 3)[0])


@pytest.mark.parametrize(("n", "ratio"), [(1, 2), (0, 4), (10, 0)])
def test_pairs_that_cannot_be_drawn(n, ratio):
    with pytest.raises(ValueError, match="2 rows or more, and a ratio of 1 or more"):
        draw_pairs(n, ratio, 0, 0)
