"""python -m minist expand: the words of a text."""

import json

import pytest
from models import DATA
from tiny import run_script

from minist import SparseEncoder
from minist.commands.expand import bars

MODEL = str(DATA / "folders/st6/idf")


def test_words_of_a_text():
    code, out, _ = run_script(
        "minist/__main__.py", "expand", "--model", MODEL, "--json", "--top-k", "5", "the cat", "sat"
    )
    assert code == 0
    model = SparseEncoder(MODEL)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["text"] for line in lines] == ["the cat", "sat"]
    for line, wanted in zip(lines, model.decode(model.encode(["the cat", "sat"]), 5), strict=True):
        assert [word["word"] for word in line["words"]] == [word for word, _ in wanted]
        assert [word["weight"] for word in line["words"]] == pytest.approx([weight for _, weight in wanted], abs=1e-4)
    inside = {word["word"] for word in lines[0]["words"] if word["in_text"]}
    assert inside <= {"the", "cat", "[CLS]", "[SEP]"} and not all(word["in_text"] for word in lines[0]["words"])


def test_a_query_without_an_encoder():
    code, out, _ = run_script("minist/__main__.py", "expand", "--model", MODEL, "--role", "query", "--json", "the cat")
    assert code == 0 and all(word["in_text"] for word in json.loads(out)["words"])


def test_drawn():
    words = [{"word": "cat", "weight": 2.0, "in_text": True}, {"word": "kitten", "weight": 1.0, "in_text": False}]
    first, second = bars(words)
    assert first == f"  cat      {2:7.3f} {'█' * 40}" and second == f"  kitten + {1:7.3f} {'█' * 20}"
    assert list(bars([])) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", str(DATA / "folders/st6/dense"), "a"], "is no sparse model: open it with SentenceTransformer"),
        (["--model", MODEL, "--role", "passage", "a"], "the role is 'passage'"),
        (["--model", MODEL, "--top-k", "0", "a"], "top_k is 0: use a number at least 1"),
    ],
)
def test_mistakes(arguments, message):
    code, _, err = run_script("minist/__main__.py", "expand", *arguments)
    assert code == 2 and message in err and len(err.splitlines()) == 1
