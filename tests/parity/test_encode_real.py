"""encode.py beside the real library: the same embedding for every line of a file."""

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
from models import docstrings, real_model

from minist import SentenceTransformer

pytestmark = pytest.mark.real_model

ROOT = Path(__file__).parents[2]
AWKWARD = [
    "",
    " ",
    " \t  ",
    "\u3000\u00a0\u2009",  # spaces that are not ASCII
    "🙂",
    "👩‍👩‍👧‍👦 a family 🏳️‍🌈 and a flag",
    "猫がマットの上に座っている。",
    "北京是中华人民共和国的首都",
    "서울은 대한민국의 수도이다",
    "القطة تجلس على السجادة",
    "החתול יושב על השטיח",
    "mixed: القطة and 猫 and cat",
    "ÀÉÎÕÜ naïve Straße İstanbul ﬁne",
    "e\u0301 is two characters",
    "[CLS] [SEP] [MASK] [PAD] <s> </s> <mask> <pad>",  # special tokens that stand in the text
    "zero\u200bwidth, a byte order mark \ufeff inside, a \x00 and a \x07",
    "line\u2028separator, \x0b vertical tab, \x0c form feed, \x85 next line, \r carriage return, all within one line",
    "a" * 300,  # a word too long for the vocabulary
    "1234567890" * 40,
    "!?" * 300,
]


def texts():
    """500 lines: whole docstrings, many that are cut anywhere, a few longer than the models take, awkward ones."""
    draw = random.Random(0)
    lines = [text.replace("\n", " ") for text in docstrings()]
    whole = draw.sample([line for line in lines if len(line) < 800], 110)
    cut = [draw.choice(lines)[: draw.randint(1, 120)] for _ in range(500 - 110 - 6 - len(AWKWARD))]
    long = [" ".join(islice(lines, i, i + 40))[: 3000 + 500 * i] for i in range(6)]
    chosen = whole + cut + long + AWKWARD
    draw.shuffle(chosen)
    return chosen


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def test_every_line_has_the_same_embedding(name, tmp_path):
    folder, lines = real_model(name), texts()
    assert len(lines) == 500
    (tmp_path / "texts.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    output = tmp_path / "texts.npy"
    command = ["encode.py", "--model", folder, tmp_path / "texts.txt", "--output", output, "--device", "cpu"]
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)
    real = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(lines)
    ours = np.load(output)
    assert ours.shape == real.shape and ours.dtype == np.float32
    assert np.abs(ours - real).max() < 1e-5


def test_the_texts_are_what_they_should_be():
    """Among the lines some are longer than each model takes, and their lengths differ widely."""
    for name in ("all-MiniLM-L6-v2", "all-mpnet-base-v2"):
        tokens = SentenceTransformer(real_model(name), device="cpu").tokenizer(texts())
        assert tokens.was_cut.sum() >= 6
        assert tokens.lengths.unique().numel() > 40
