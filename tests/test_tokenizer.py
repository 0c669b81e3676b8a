"""Text to token ids: what is cut, what is counted, what a tokenizer.json may not smuggle in."""

import json
import random

import pytest
from tiny import WORDS, sentences
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer

from minist.data.tokenizer import Tokenizer
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

    loaded = Tokenizer(Backend.from_file(str(tmp_path / "tokenizer.json")), MAX)
    assert ids(loaded, words(7)) == ids(tokenizer, words(7))
    assert loaded(["", words(9)]).lengths.tolist() == [2, 11]
    content = json.loads(loaded.to_json())
    assert content["truncation"] is None
    assert content["padding"] is None


def test_saved_and_read_again(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    loaded = Tokenizer(Backend.from_file(str(tmp_path / "tokenizer.json")), MAX)
    assert loaded.to_json() == tokenizer.to_json()
    assert loaded.vocab_size == tokenizer.vocab_size


def test_max_length_must_leave_room(tokenizer):
    with pytest.raises(
        ValueError, match="max_length, of which a pair's special tokens take 3, is 3: use a number at least 4"
    ):
        Tokenizer(Backend.from_str(tokenizer.to_json()), 3)


# ---------------------------------------------------------------- max_length, vocabularies


def test_max_length_is_what_texts_are_cut_at(tokenizer):
    shorter = Tokenizer(Backend.from_str(tokenizer.to_json()), MAX)
    shorter.max_length = 7
    assert shorter.max_length == 7
    assert ids(shorter, words(20)) == [*ids(tokenizer, words(20))[:6], ids(tokenizer, "")[-1]]
    assert shorter([words(5), words(6)]).was_cut.tolist() == [False, True]
    shorter.longest = 9
    with pytest.raises(ValueError, match=r"max_length, .*, is 10: use a number at least 4 and at most 9"):
        shorter.max_length = 10
    for wrong in (None, "12", 3, float("nan")):
        with pytest.raises(ValueError, match="max_length, of which"):
            shorter.max_length = wrong
    assert shorter.max_length == 7


@pytest.mark.parametrize(("name", "ours"), [("model_max_length", "set max_length"), ("padding_side", "nothing is pad")])
def test_what_is_set_on_a_tokenizer_of_transformers(tokenizer, name, ours):
    with pytest.raises(ValueError, match=f"a tokenizer has no {name} here: {ours}"):
        setattr(tokenizer, name, 128)


def test_the_size_of_a_vocabulary_with_gaps():
    backend = Backend(WordLevel({"[UNK]": 0, "read": 1, "write": 70000}, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    gaps = Tokenizer(backend, MAX)
    assert backend.get_vocab_size() == 3
    assert gaps.vocab_size == 70001 == max(ids(gaps, "read write")) + 1


def test_a_tokenizer_without_its_unknown_token():
    with pytest.raises(ValueError, match=r"^the tokenizer has no token for what it does not know: [^\n]*$"):
        Tokenizer(Backend(WordPiece({"read": 0}, unk_token="[UNK]")), MAX)


def test_special_ids_beyond_the_vocabulary():
    backend = Backend(WordLevel({"[UNK]": 0, "read": 1}, unk_token="[UNK]"))
    backend.post_processor = TemplateProcessing(single="[CLS] $A", pair="$A $B", special_tokens=[("[CLS]", 99)])
    with pytest.raises(ValueError, match="the tokenizer gives id 99, its vocabulary ends at 1"):
        Tokenizer(backend, MAX)


def test_prompt_length_without_a_closing_token():
    backend = Backend(WordLevel({"[UNK]": 0, "[CLS]": 1, **{word: i + 2 for i, word in enumerate(WORDS)}}, "[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens(["[CLS]"])
    assert Tokenizer(backend, MAX).prompt_length("read the ") == 2
    backend.post_processor = TemplateProcessing(single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", 1)])
    opened = Tokenizer(backend, MAX)
    assert opened.prompt_length("read the ") == 3
    assert ids(opened, "file", "read the ") == [*ids(opened, "read the "), ids(opened, "file")[1]]


# ---------------------------------------------------------------- long texts


def bert():
    return Backend.from_str(train_wordpiece(sentences(200), TokenizerConfig(vocab_size=60, max_length=MAX)).to_json())


def byte_level():
    """As GPT-2 and RoBERTa cut text."""
    backend = Backend(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    special = ["<s>", "</s>"]
    trainer = BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(sentences(200), trainer)
    backend.post_processor = RobertaProcessing(("</s>", 1), ("<s>", 0))
    return backend


def sentence_piece():
    """As XLM-RoBERTa does."""
    backend = Backend(Unigram())
    backend.normalizer, backend.pre_tokenizer = NFKC(), Metaspace()
    trainer = UnigramTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(sentences(200), trainer)
    backend.post_processor = TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return backend


def whole_text():
    """No pre-tokenizer: a merge may cross any place."""
    backend = Backend(BPE())
    backend.train_from_iterator(sentences(200), BpeTrainer(vocab_size=90, show_progress=False))
    backend.add_special_tokens(["<unk>"])
    return backend


PARTS = [
    *WORDS,
    "字",
    "字。字",
    "\n",
    "  ",
    "\t",
    "e\u0301",
    "\u0301",
    "🙂",
    "1234",
    "a" * 110,
    "[SEP]",
    "</s>",
    "!?",
    "Σ",
]


def random_text(draw, longest):
    """Up to `longest` characters and more, of a kind that is drawn too."""
    parts, glue = draw.sample(PARTS, draw.randint(1, 5)), draw.choice([" ", " ", "", "\n", "   "])
    text = glue.join(draw.choices(parts, k=draw.randint(0, 9)))
    return text * (draw.randint(0, longest) // max(len(text), 1) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [bert, byte_level, sentence_piece, whole_text])
def test_long_texts_are_cut_as_the_library_cuts_them(make):
    """Texts and pairs of all lengths, also those of which only the beginning is read; with odd and even room."""
    draw = random.Random(0)
    for longest, special, apart in ((13, True, 120), (40, False, 350)):  # the library needs much time for long pairs
        plain, ours = make(), Tokenizer(make(), longest, special)
        plain.enable_truncation(longest, strategy="longest_first")
        texts = [random_text(draw, draw.choice([50, 2000, 5000])) for _ in range(60)]
        texts += [(random_text(draw, 2 * apart), random_text(draw, draw.choice([20, 2 * apart]))) for _ in range(8)]
        texts += [("read " * (apart + n), "read " * (apart + m)) for n, m in ((0, 0), (0, 1), (1, 0))]
        texts += [("read " * n, "read " * (4 * apart)) for n in (1, 6, longest)]
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        expected = [plain.encode(*pair, add_special_tokens=special) for pair in pairs]
        found = ours(texts)
        assert found.lengths.tolist() == [len(e) for e in expected]
        assert found.input_ids.tolist() == [i for e in expected for i in e.ids]
        assert found.token_type_ids.tolist() == [i for e in expected for i in e.type_ids]
        assert found.was_cut.tolist() == [bool(e.overflowing) for e in expected]


@pytest.mark.parametrize("make", [bert, byte_level, sentence_piece])
def test_a_book_is_not_tokenized_to_its_end(make):
    """What the library is given, counted in characters."""
    backend, seen = make(), []

    class Counting:
        def __getattr__(self, name):
            return getattr(backend, name)

        def encode_batch_fast(self, texts, **options):
            assert all(isinstance(text, str) for text in texts)  # of a long pair it makes every pair of parts
            seen.append(max(map(len, texts)))
            return backend.encode_batch_fast(texts, **options)

        def encode(self, text, **options):
            seen.append(len(text))
            return backend.encode(text, **options)

    ours = Tokenizer(Counting(), MAX)
    assert ours(["read file " * 10**5, ("sort", "list " * 10**5)]).was_cut.tolist() == [True, True]
    assert max(seen) <= 1024 + 16 * MAX


def test_pieces_hold_no_more_than_so_many_characters(tokenizer):
    texts = ["read " * 2000] * 1024  # each counts for the beginning that is read
    sizes = [len(piece) for piece in tokenizer._pieces(texts)]
    assert sum(sizes) == 1024 and len(sizes) == 2
    assert [len(piece) for piece in tokenizer._pieces(["a"] * 2050)] == [1024, 1024, 2]
    assert list(tokenizer._pieces([])) == [[]]
