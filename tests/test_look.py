"""python -m minist look: what it shows of texts is what the model computes."""

import re

import pytest
import torch
from models import DATA
from routed import asymmetric, two_towers
from tiny import run_script, tiny_model

from minist.commands.look import fit, mean_cosine, see, spans, width_of
from minist.data.pairing import kept_lengths
from minist.models import CrossEncoder, open_model
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


def seen(model, text, role=None):
    packed, _ = model.read([text], model.find_prompt(None, None, role), role)
    return see(model, packed, role)


@pytest.mark.parametrize("mode", MODES)
def test_shares_are_parts_of_the_pooled_vector(mode):
    """By taking tokens away: a pooling that is linear in its tokens is the sum of what each gives alone."""
    model = tiny_model(mode=mode)
    one = seen(model, "read the file and write a line")
    x, n = one.tokens.double(), len(one.ids)
    if mode == "max":
        largest = x == x.amax(0)  # of a dimension; equal ones share it
        parts = x * largest / largest.sum(0)
    else:
        weights = {"mean": [1 / n] * n, "mean_sqrt_len_tokens": [n**-0.5] * n, "cls": [1] + [0] * (n - 1)}
        weights |= {"lasttoken": [0] * (n - 1) + [1], "weightedmean": [i / sum(range(n + 1)) for i in range(1, n + 1)]}
        parts = torch.tensor(weights[mode])[:, None] * x
    pooled = parts.sum(0)
    torch.testing.assert_close(pooled.float(), torch.tensor(model.encode("read the file and write a line")))
    assert one.shares == pytest.approx([float(part @ pooled / (pooled @ pooled)) for part in parts], abs=1e-5)
    assert sum(one.shares) == pytest.approx(1, abs=1e-5)


def test_what_is_shown_is_what_the_model_has():
    model = tiny_model()
    one = seen(model, "read the file")
    wanted = model.tokenizer.backend.encode("read the file")
    assert (one.ids, one.names) == (wanted.ids, wanted.tokens)
    torch.testing.assert_close(one.states[-1], torch.tensor(model.encode_tokens("read the file")))
    assert len(one.states) == 3  # behind the embeddings, and two layers
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
    start = next(i for i, line in enumerate(lines) if line.startswith("cosine x 100"))
    rows = [line[18:] for line in lines[start + 2 :]]
    for row, wanted in zip(rows, table, strict=False):
        assert [int(cell.strip("*")) for cell in row.split()] == [round(100 * c) for c in wanted.tolist()]
        assert ["*" in cell for cell in row.split()] == [bool(c == wanted.max()) for c in wanted]
    assert list(map(int, rows[len(x)].split())) == table.argmax(0).tolist()


@pytest.mark.parametrize(
    "folder", ["st6/dense2", "st6/static", "st6/sparse", "st6/csr", "st6/idf", "st6/ce", "tiny", "routed", "towers"]
)
def test_no_text_is_too_hard(folder, tmp_path):
    """Texts of all kinds in models of all kinds: no line is wider than a terminal, and none has control characters."""
    made = {"tiny": tiny_model, "routed": asymmetric, "towers": two_towers}
    if folder in made:
        made[folder]().save(tmp_path)
    roles = ["--role", "query", "--role", "document"] * (folder in ("routed", "towers"))
    for text in HARD:
        lines = look(tmp_path if folder in made else FOLDERS / folder, *roles, text, "a cat")
        assert all(width_of(line) <= 80 and line.isprintable() for line in lines), max(lines, key=width_of)
        assert len(lines) < 130


def test_a_pair_is_read_as_one(tmp_path):
    text = "read write sort file"
    lines = look(FOLDERS / "st6/ce", "the cat", "a cat sat")
    model = CrossEncoder(FOLDERS / "st6/ce")
    shown = [int(line.split()[1]) for line in lines if re.fullmatch(r" +\d+ +\d+  \S+", line)]
    packed = model.read([("the cat", "a cat sat")], "", None)[0]
    assert shown == packed.input_ids.tolist()
    assert lines[-1].split() == ["score", f"{model.predict(('the cat', 'a cat sat')):.4f}"]
    long = look(FOLDERS / "st6/ce", "the cat " * 10, text * 100)
    n, m = (model.pairing.tokenizer([t]).lengths for t in ("the cat " * 10, text * 100))
    kept = [k.item() for k in kept_lengths(n, m, model.pairing.room)]
    assert (
        f"cut: {kept[0]} of {n.item()} tokens of the first text are read, and {kept[1]} of {m.item():,} of the"
        in long[3]
    )


def test_where_a_text_is_cut(tmp_path):
    model = tiny_model()
    model.save(tmp_path)
    text = "read write " * 20 + "the end"
    (line,) = [line for line in look(tmp_path, text) if line.startswith("cut: ")]
    rest = text[int(re.findall(r"the last (\d+)", line)[0]) * -1 :]
    assert "cut: " not in "\n".join(look(tmp_path, text[: -len(rest)]))  # what is read fits
    assert len(seen(open_model(tmp_path), text).ids) == model.max_length
    assert rest.startswith(line.partition("not read: ")[2].rstrip("…")[:20])


def test_columns():
    assert [width_of(text) for text in ("abc", "日本", "e\u0301", "")] == [3, 4, 1, 0]
    assert fit("abcdef", 4) == "abc…" and fit("ab", 4) == "ab  " and fit("日本語", 4) == "日… "
    assert fit("a\x1b\n", 4) == "a·· "
    assert spans(3, 2, 1) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert spans(9, 2, 1) == [slice(0, 1), slice(1, 2), slice(2, 8), slice(8, 9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", str(FOLDERS / "st6/ce"), "a"], "is a cross-encoder: give it two texts"),
        (["--model", str(FOLDERS / "st6/dense"), "--role", "passage", "a"], "the role is 'passage'"),
        (["--model", str(FOLDERS / "st6/dense"), "a\ud800"], "half of a surrogate pair"),
        (["--model", "nowhere/at/all", "a"], "nowhere/at/all"),
    ],
)
def test_mistakes(arguments, message):
    code, _, err = run_script("minist/__main__.py", "look", *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1
