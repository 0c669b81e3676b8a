"""Text to token ids: what is cut, what is counted, what a tokenizer.json may not smuggle in."""

import json

import pytest
from tiny import WORDS, sentences
from tokenizers import Tokenizer as Backend

from minist.data.tokenizer import load_tokenizer
from minist.training.config import TokenizerConfig
from minist.training.start import train_wordpiece

MAX = 12


@pytest.fixture(scope="module")
def tokenizer():
    """Every word of WORDS is one token."""
    tokenizer = train_wordpiece(sentences(200), TokenizerConfig(vocab_size=500, max_length=MAX))
    assert all(len(ids(tokenizer, word)) == 3 for word in WORDS)
    return tokenizer


def ids(tokenizer, text, prompt=""):
    return tokenizer([text], prompt).input_ids.tolist()


def words(n, start=0):
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(n))


def test_texts_lie_end_to_end(tokenizer):
    texts = sentences(20, seed=3)
    tokens = tokenizer(texts)
    one_by_one = [ids(tokenizer, text) for text in texts]
    assert tokens.input_ids.tolist() == [i for one in one_by_one for i in one]
    assert tokens.lengths.tolist() == [len(one) for one in one_by_one]
    packed = tokens.packed(2)
    assert packed.lengths.tolist() == tokens.lengths.tolist()
    assert packed.prompt_lengths.tolist() == [2] * 20


def test_special_tokens_frame_a_text(tokenizer):
    cls, word, sep = ids(tokenizer, WORDS[0])
    assert [tokenizer.backend.id_to_token(i) for i in (cls, word, sep)] == ["[CLS]", WORDS[0], "[SEP]"]
    assert ids(tokenizer, "") == [cls, sep]


@pytest.mark.parametrize(("n", "length", "cut"), [(9, 11, False), (10, 12, False), (11, 12, True), (300, 12, True)])
def test_max_length_counts_special_tokens(tokenizer, n, length, cut):
    tokens = tokenizer([words(n)])
    assert tokens.lengths.tolist() == [length]
    assert tokens.was_cut.tolist() == [cut]
    assert ids(tokenizer, words(n))[1 : length - 1] == ids(tokenizer, words(10))[1 : length - 1]


@pytest.mark.parametrize(("n", "m", "cut"), [(4, 5, False), (5, 5, True), (1, 8, False), (1, 9, True), (40, 40, True)])
def test_was_cut_of_pairs(tokenizer, n, m, cut):
    tokens = tokenizer([(words(n), words(m, 5))])
    assert tokens.was_cut.tolist() == [cut]
    assert tokens.lengths.tolist() == [min(n + m + 3, MAX)]


@pytest.mark.parametrize(("n", "m", "kept"), [(20, 3, (6, 3)), (3, 20, (3, 6)), (20, 20, None), (4, 5, (4, 5))])
def test_pairs_are_cut_longest_first(tokenizer, n, m, kept):
    first, second = words(n), words(m, 5)
    tokens = tokenizer([(first, second)])
    second_start = tokens.token_type_ids.tolist().index(1)
    a = tokens.input_ids.tolist()[1 : second_start - 1]
    b = tokens.input_ids.tolist()[second_start:-1]
    sizes = (len(a), len(b))
    assert sizes == kept if kept else abs(sizes[0] - sizes[1]) == 1 and sum(sizes) == MAX - 3
    assert a == ids(tokenizer, first)[1 : 1 + len(a)]
    assert b == ids(tokenizer, second)[1 : 1 + len(b)]
    assert tokens.token_type_ids.tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_texts_and_pairs_may_be_mixed(tokenizer):
    tokens = tokenizer([words(2), (words(1), words(1))])
    assert tokens.token_type_ids.tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_prompt_goes_before_the_first_text(tokenizer):
    assert ids(tokenizer, "file list", "read ") == ids(tokenizer, "read file list")
    assert ids(tokenizer, ("file", "list"), "read ") == ids(tokenizer, ("read file", "list"))


def test_prompt_length_counts_cls_and_not_sep(tokenizer):
    assert tokenizer.prompt_length("") == 0
    assert tokenizer.prompt_length("read ") == 2
    assert tokenizer.prompt_length("read the file: ") == len(ids(tokenizer, "read the file:")) - 1


def test_truncation_and_padding_in_the_file_are_dropped(tokenizer, tmp_path):
    backend = Backend.from_str(tokenizer.to_json())
    backend.enable_truncation(4)
    backend.enable_padding(length=11)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["padding"]  # else this test shows nothing

    loaded = load_tokenizer(tmp_path / "tokenizer.json", MAX, False)
    assert ids(loaded, words(7)) == ids(tokenizer, words(7))
    assert loaded(["", words(9)]).lengths.tolist() == [2, 11]
    content = json.loads(loaded.to_json())
    assert content["truncation"] is None
    assert content["padding"] is None


def test_saved_and_read_again(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    loaded = load_tokenizer(tmp_path / "tokenizer.json", MAX, False)
    assert loaded.to_json() == tokenizer.to_json()
    assert loaded.vocab_size == tokenizer.vocab_size


def test_lower_case(tmp_path):
    cased = train_wordpiece(sentences(50), TokenizerConfig(vocab_size=200, max_length=MAX, lower_case=False))
    (tmp_path / "tokenizer.json").write_text(cased.to_json())
    as_saved, lowered = (load_tokenizer(tmp_path / "tokenizer.json", MAX, lower) for lower in (False, True))
    assert ids(as_saved, "READ File") != ids(as_saved, "read file")
    assert ids(lowered, "READ File") == ids(as_saved, "read file")


def test_max_length_must_leave_room(tmp_path, tokenizer):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    with pytest.raises(ValueError, match="max_length is 3: a pair alone has 3 special tokens"):
        load_tokenizer(tmp_path / "tokenizer.json", 3, False)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "Nothing"}}'])
def test_no_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json", MAX, False)
