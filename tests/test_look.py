"""python -m minist look: what it shows of texts is what the model computes."""

import re

import pytest
import torch
from models import DATA
from routed import asymmetric, two_towers
from test_distributed import family
from test_masked_lm import tiny_lm
from tiny import run_script, tiny_model
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from minist.commands.look import mean_cosine, names_of, see
from minist.data.tokenizer import Tokenizer
from minist.models import CrossEncoder, SentenceTransformer
from minist.modules.pooling import MODES

FOLDERS = DATA / "folders"
HARD = [
    "",
    " ",
    "日本語のテキスト",
    "👍🏽 a\u0301 \x1b[31mred",
    "read " * 5000,
    "<b>&amp;</b>\n\n\ttab",
    "\u200b",
    "x" * 3000,
]


def look(model, *arguments):
    code, out, err = run_script("minist/__main__.py", "look", "--model", str(model), *arguments)
    assert (code, err) == (0, "")
    return out.splitlines()


def seen(model, text):
    """Vectors by layer, those that the pooling sees, and shares."""
    return see(model, model.read([text], "", None)[0], None)


def ids_in(lines):
    return [int(line.split()[1]) for line in lines if re.match(r" +\d+ +\d+ +\S", line)]


@pytest.mark.parametrize("mode", MODES)
def test_shares_are_parts_of_the_pooled_vector(mode):
    """By taking tokens away: a pooling that is linear in its tokens is the sum of what each gives alone."""
    model = tiny_model(mode=mode)
    _, tokens, shares = seen(model, "read the file and write a line")
    x, n = tokens.double(), len(tokens)
    if mode == "max":
        largest = x == x.amax(0)  # of a dimension; equal ones share it
        parts = x * largest / largest.sum(0)
    else:
        weights = {"mean": [1 / n] * n, "mean_sqrt_len_tokens": [n**-0.5] * n, "cls": [1] + [0] * (n - 1)}
        weights |= {"lasttoken": [0] * (n - 1) + [1], "weightedmean": [i / sum(range(n + 1)) for i in range(1, n + 1)]}
        parts = torch.tensor(weights[mode])[:, None] * x
    pooled = parts.sum(0)
    torch.testing.assert_close(pooled.float(), torch.tensor(model.encode("read the file and write a line")))
    assert shares == pytest.approx([float(part @ pooled / (pooled @ pooled)) for part in parts], abs=1e-5)
    assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_what_is_shown_is_what_the_model_has():
    model = tiny_model()
    packed, wanted = model.read(["read the file"], "", None)[0], model.tokenizer.backend.encode("read the file")
    assert (packed.input_ids.tolist(), names_of(packed, model.tokenizer)) == (wanted.ids, wanted.tokens)
    states, tokens, _ = see(model, packed, None)
    torch.testing.assert_close(states[-1], torch.tensor(model.encode_tokens("read the file")))
    assert len(states) == 3 and (tokens == states[-1]).all()  # behind the embeddings, and two layers
    x = torch.randn(5, 7)
    others = [torch.cosine_similarity(x[i], x[j], dim=0) for i in range(5) for j in range(5) if i != j]
    assert mean_cosine(x) == pytest.approx(float(sum(others)) / 20, abs=1e-6)


def test_two_texts(tmp_path):
    model = tiny_model()
    model.save(tmp_path)
    a, b = "read the file", "file line"
    lines = look(tmp_path, a, b)
    similarity = model.similarity(model.encode([a]), model.encode([b])).item()
    assert f"cosine of the two texts: {similarity:.4f}" in lines
    x, y = (torch.tensor(model.encode_tokens(text)) for text in (a, b))
    table = torch.cosine_similarity(x[:, None], y[None], dim=2)
    start = next(i for i, line in enumerate(lines) if "the nearest of the second" in line)
    names = [model.tokenizer.backend.encode(text).tokens for text in (a, b)]
    for i, (line, wanted) in enumerate(zip(lines[start + 1 :], table, strict=False)):
        assert line.split() == [str(i), f"{wanted.max():.2f}", names[0][i], names[1][wanted.argmax()]]


@pytest.mark.parametrize(
    "folder", ["st6/dense2", "st6/static", "st6/sparse", "st6/csr", "st6/idf", "st6/ce", "tiny", "routed", "towers"]
)
def test_no_text_is_too_hard(folder, tmp_path):
    """Texts of all kinds in models of all kinds: no line has control characters."""
    made = {"tiny": tiny_model, "routed": asymmetric, "towers": two_towers}
    if folder in made:
        made[folder]().save(tmp_path)
    roles = ["--role", "query", "--role", "document"] * (folder in ("routed", "towers"))
    for text in HARD:
        lines = look(tmp_path if folder in made else FOLDERS / folder, *roles, text, "a cat")
        assert all(line.isprintable() for line in lines) and "token" in " ".join(lines)


def test_a_pair_is_read_as_one():
    text = "read write sort file"
    lines = look(FOLDERS / "st6/ce", "the cat", "a cat sat")
    model = CrossEncoder(FOLDERS / "st6/ce")
    assert ids_in(lines) == model.read([("the cat", "a cat sat")], "", None)[0].input_ids.tolist()
    assert lines[-1].split() == [f"{model.predict(('the cat', 'a cat sat')):.4f}", "score"]
    assert "the text is cut" not in "".join(lines)
    assert "the text is cut" in "".join(look(FOLDERS / "st6/ce", "the cat " * 10, text * 100))


def test_a_text_that_is_cut(tmp_path):
    model = tiny_model()
    model.save(tmp_path)
    lines = look(tmp_path, "read write " * 20 + "the end")
    assert "32 tokens, and behind them the text is cut: the model reads no more" in lines and len(ids_in(lines)) == 32
    assert "the text is cut" not in "".join(look(tmp_path, "read write " * 15))


def test_bytes_are_letters_again():
    """A tokenizer of bytes spells them in letters of its own: é is two, which make a letter when they are one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(dict(zip([*letters, "Ã©"], range(257), strict=True)), [("Ã", "©")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = Tokenizer(backend, 32)
    assert names_of(tokenizer(["a é\n☃"]).packed(), tokenizer) == ["a", "▁", "é", "·", "�", "�", "�"]


@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize("make", [tiny_lm, lambda: family("modernbert"), lambda: tiny_lm("modernbert")])
def test_other_models(make, tmp_path):
    model = make()
    model.save(tmp_path)
    lines = look(tmp_path, "read the file", "a file")
    assert "\nlayer " in "\n".join(lines) and any("nearest of the second" in line for line in lines)
    assert ids_in(lines) == model.read(["read the file", "a file"], "", None)[0].input_ids.tolist()


def test_an_adapter(tmp_path):
    tiny_model().save(tmp_path / "base")
    plain = look(tmp_path / "base", "read the file")
    model = SentenceTransformer(tmp_path / "base")
    model.add_adapter(4, 8)
    for name, parameter in model.named_parameters():
        parameter.data += 0.3 * (".lora." in name)
    model.save(tmp_path / "adapter")
    lines, states = look(tmp_path / "adapter", "read the file"), seen(model, "read the file")[0]
    assert f"{mean_cosine(states[-1]):.2f}" == lines[-1].split()[2] != plain[-1].split()[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", str(FOLDERS / "st6/ce"), "a"], "is a cross-encoder: give it two texts"),
        (["--model", str(FOLDERS / "st6/ce"), "a", "b", "--role", "query"], "its two texts have no roles"),
        (["--model", str(FOLDERS / "st6/dense"), "--role", "passage", "a"], "the role is 'passage'"),
        (["--model", str(FOLDERS / "st6/dense"), "a\ud800"], "half of a surrogate pair"),
        (["--model", "nowhere/at/all", "a"], "nowhere/at/all"),
    ],
)
def test_mistakes(arguments, message):
    code, _, err = run_script("minist/__main__.py", "look", *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1
