"""Pairs that are joined from texts which were tokenized once, and texts of other rows that a query is paired with."""

import random

import pytest
import torch
from tiny import WORDS, sentences
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.processors import BertProcessing, RobertaProcessing, TemplateProcessing

from minist.data.pairing import Pairing, add_negatives, kept_lengths, pair_rows
from minist.data.tokenizer import Tokenizer

VOCAB = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "[X]", *WORDS])}
ENDS = [("[CLS]", 1), ("[SEP]", 2)]
PROCESSORS = {  # what a family puts round its pairs
    "bert": TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ENDS),
    "bert, older": BertProcessing(("[SEP]", 2), ("[CLS]", 1)),
    "roberta": RobertaProcessing(("[SEP]", 2), ("[CLS]", 1)),
    "nothing between": TemplateProcessing("[CLS] $A", "[CLS]:1 $A:1 $B:0", ENDS),
    "the second first": TemplateProcessing("$A [SEP]", "$A [SEP] $B:2 [SEP]:2 [X]:3", [*ENDS, ("[X]", 3)]),
    "none": None,
}


def make(processor, longest):
    backend = Backend(WordLevel(VOCAB, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.post_processor = WhitespaceSplit(), processor
    return Tokenizer(backend, longest)


@pytest.mark.parametrize("longest", [8, 9, 31, 10**6])
@pytest.mark.parametrize("name", PROCESSORS)
def test_as_the_library_joins_and_cuts(name, longest):
    draw = random.Random(longest)
    texts = ["", *sentences(6), *(" ".join(draw.choices(WORDS, k=n)) for n in (1, 2, 3, 4, 5, 12, 13, 14, 15, 28, 40))]
    pairs = [(a, b) for a in texts for b in texts]
    tokenizer = make(PROCESSORS[name], longest)
    found, cut = Pairing(tokenizer, token_types=True).read(pairs, "")
    expected = tokenizer.backend.encode_batch(pairs)
    assert found.input_ids.tolist() == [i for one in expected for i in one.ids]
    assert found.token_type_ids.tolist() == [i for one in expected for i in one.type_ids]
    assert found.lengths.tolist() == [len(one) for one in expected]
    assert cut == sum(bool(one.overflowing) for one in expected)


def test_a_byte_level_vocabulary():
    backend = Backend(WordLevel({**VOCAB, "Ġ": 90, "Ġread": 91, "Ċ": 92}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.post_processor = ByteLevel(add_prefix_space=True), PROCESSORS["roberta"]
    tokenizer, pairs = Tokenizer(backend, 9), [("read write\n\nread", " read read read read read"), ("", "\n")]
    found, _ = Pairing(tokenizer, token_types=False).read(pairs, "")
    assert found.input_ids.tolist() == [i for one in tokenizer.backend.encode_batch(pairs) for i in one.ids]


def test_an_encoder_without_token_types_gets_none():
    tokenizer = make(PROCESSORS["bert"], 20)
    found, _ = Pairing(tokenizer, token_types=False).read([("read", "write")], "")
    tokenizer.has_types = False
    same, _ = Pairing(tokenizer, token_types=True).read([("read", "write")], "")
    assert found.token_type_ids.sum() == same.token_type_ids.sum() == 0


def test_each_text_is_tokenized_once(monkeypatch):
    pairing, asked = Pairing(make(PROCESSORS["bert"], 20), True), []
    whole = Tokenizer.__call__
    monkeypatch.setattr(Tokenizer, "__call__", lambda self, texts, p="": asked.extend(texts) or whole(self, texts, p))
    pairing.read([("read", text) for text in ("write", "sort", "write", "read")], "")
    assert sorted(asked) == ["read", "read", "sort", "write"]  # once as a first text, and once as a second


def test_a_prompt_goes_before_the_first_text():
    pairing = Pairing(make(PROCESSORS["bert"], 20), True)
    found, same = (pairing.read(*given)[0] for given in (([("read", "sort")], "file "), ([("file read", "sort")], "")))
    assert found.input_ids.equal(same.input_ids)


def test_max_length_may_be_set_later():
    tokenizer = make(PROCESSORS["bert"], 20)
    pairing = Pairing(tokenizer, True)
    tokenizer.max_length = 7
    assert pairing.read([(" ".join(WORDS), "sort")], "")[0].lengths.tolist() == [7]
    assert pairing.room == 4


@pytest.mark.parametrize("room", [4, 5])
def test_the_longer_text_is_cut_first(room):
    """By the rule itself: token by token, the second text's where both are as long."""
    sizes = [(n, m) for n in range(8) for m in range(8)]

    def cut(n, m):
        while n + m > room:
            n, m = (n - 1, m) if n > m else (n, m - 1)
        return n, m

    # the library gives an odd token to the text that was longer, not to the one that is longer at the end
    n, m = (torch.tensor(x) for x in zip(*sizes, strict=True))
    found = list(zip(*(x.tolist() for x in kept_lengths(n, m, room)), strict=True))
    for (a, b), kept in zip(sizes, found, strict=True):
        assert sum(kept) == min(a + b, room)
        assert sorted(kept) == sorted(cut(a, b))
        assert kept[0] <= a and kept[1] <= b


def test_a_tokenizer_that_drops_letters_is_refused():
    tokenizer = make(PROCESSORS["bert"], 10)
    tokenizer.backend.normalizer = Replace("x", "")
    with pytest.raises(ValueError, match="the tokenizer makes no token of the letter x"):
        Pairing(tokenizer, False)


def test_no_pairs():
    found, cut = Pairing(make(PROCESSORS["bert"], 20), True).read([], "")
    assert (found.n, len(found.input_ids), cut) == (0, 0, 0)


# ---------------------------------------------------------------- who is paired with whom


def as_lists(pairs):
    return list(zip(pairs.queries.tolist(), pairs.texts.tolist(), strict=True)), pairs.counts.tolist()


def test_pairs_of_rows():
    ones, lists = torch.ones(3, dtype=torch.long), torch.tensor([2, 0, 1])
    assert as_lists(pair_rows([ones])) == ([(0, 0), (1, 1), (2, 2)], [1, 1, 1])
    assert as_lists(pair_rows([ones, ones])) == ([(0, 0), (0, 3), (1, 1), (1, 4), (2, 2), (2, 5)], [2, 2, 2])
    assert as_lists(pair_rows([lists])) == ([(0, 0), (0, 1), (2, 2)], [2, 0, 1])
    assert as_lists(pair_rows([ones, lists])) == ([(0, 0), (0, 3), (0, 4), (1, 1), (2, 2), (2, 5)], [3, 1, 2])


COLUMNS = [torch.ones(5, dtype=torch.long), torch.tensor([2, 0, 1, 1, 3])]
OWNER = [0, 1, 2, 3, 4, 0, 0, 2, 3, 4, 4, 4]  # row of each text


def drawn(rows, most, seed=0, step=0):
    """By row number: the own texts, and those of other rows, as (row number, place among that row's texts)."""
    order = torch.tensor(rows)
    columns = [column[order] for column in COLUMNS]
    own = pair_rows(columns)
    owner = own.queries[own.texts.argsort()].tolist()
    names = [(rows[row], owner[:i].count(row)) for i, row in enumerate(owner)]
    found = add_negatives(own, order, most, seed, step)
    texts = found.texts.split(found.counts.tolist())
    for row, (mine, size) in enumerate(zip(texts, own.counts.tolist(), strict=True)):
        assert [names[i][0] for i in mine[:size]] == [rows[row]] * size  # the positive first
    assert found.queries.tolist() == [row for row, n in enumerate(found.counts.tolist()) for _ in range(n)]
    return {rows[row]: sorted(names[i] for i in mine[size:]) for row, (mine, size) in
            enumerate(zip(texts, own.counts.tolist(), strict=True))}  # fmt: skip


@pytest.mark.parametrize("most", [1, 3, 9, 100, None])
def test_negatives_are_texts_of_other_rows(most):
    found = drawn([0, 1, 2, 3, 4], most)
    for row, negatives in found.items():
        assert row not in [owner for owner, _ in negatives]
        assert len(set(negatives)) == len(negatives) == min(most or 100, 12 - OWNER.count(row))


@pytest.mark.parametrize("most", [1, 3, 8, None])
def test_negatives_do_not_depend_on_the_order_of_rows(most):
    found = drawn([0, 1, 2, 3, 4], most)
    assert drawn([4, 2, 0, 3, 1], most) == found
    assert most is None or most > 7 or any(drawn([0, 1, 2, 3, 4], most, step=s) != found for s in range(1, 4))
    assert most is None or most > 7 or any(drawn([0, 1, 2, 3, 4], most, seed=s) != found for s in range(1, 4))


def test_every_text_of_other_rows_is_drawn_as_often():
    counts = dict.fromkeys(((row, text) for row in range(5) for text in range(OWNER.count(row))), 0)
    for step in range(600):
        for text in drawn([3, 1, 4, 0, 2], 2, step=step)[1]:
            counts[text] += 1
    others = [n for (row, _), n in counts.items() if row != 1]
    assert counts[1, 0] == 0 and sum(others) == 1200
    assert min(others) > 70 and max(others) < 150  # 109 each; three standard deviations are 30


def test_one_row_alone_has_no_negatives():
    own = pair_rows([torch.tensor([2])])
    assert as_lists(add_negatives(own, torch.tensor([7]), 4, 0, 0)) == ([(0, 0), (0, 1)], [2])
