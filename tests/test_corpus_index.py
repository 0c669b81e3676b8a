"""The index of a corpus: what is embedded at which start, what is kept, and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
import torch
from models import DATA
from tiny import ROOT, sentences, tiny_model, write_jsonl

from minist import SparseEncoder
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval import corpus_index
from minist.retrieval.bm25 import BM25
from minist.retrieval.corpus_index import CorpusIndex, Document

LINES = [f"{text} {i}" for i, text in enumerate(sentences(50, seed=3))]


class Counting:
    """What a model embeds, while this is in use."""

    def __init__(self, model):
        self.model, self.embed, self.texts = model, model.embed, []

    def __enter__(self):
        self.model.embed = self
        return self.texts

    def __exit__(self, *_):
        del self.model.embed

    def __call__(self, texts, *others):
        self.texts += texts
        return self.embed(texts, *others)


@pytest.fixture(scope="module")
def model():
    made = tiny_model()
    made.prompts |= {"document": "text: "}
    return made


@pytest.fixture(scope="module")
def sparse():
    return SparseEncoder(DATA / "folders/st6/idf")


@pytest.fixture
def corpus(tmp_path):
    return lines(tmp_path / "docs.txt", LINES)


def lines(file, texts):
    file.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return file


def start(file, model, folder=None, said=None, name="m"):
    """The index, and what a start gives for the model."""
    index = CorpusIndex(file, "", folder or file.with_name("index"), [].append if said is None else said.append)
    with index.locked():
        return index, index.sparse(name, model) if model.gives == "sparse" else index.dense(name, model)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_embeddings_of_all_documents(corpus, model):
    _, found = start(corpus, model)
    torch.testing.assert_close(found, torch.from_numpy(model.encode_document(LINES)), atol=1e-6, rtol=0)


def test_a_model_with_fewer_dimensions(corpus):
    short = tiny_model()
    short.truncate_dim = 5
    assert start(corpus, short)[1].shape == (50, 5)


def test_an_inverted_index_of_all_documents(corpus, sparse):
    _, index = start(corpus, sparse)
    query = sparse.encode_query(["read sort"])
    scores, rows = index.search(query, 10)
    wanted = sparse.similarity(query, sparse.encode_document(LINES))[0]
    torch.testing.assert_close(scores[0], wanted[rows[0]])
    torch.testing.assert_close(scores[0], wanted.sort(descending=True).values[:10])


@pytest.mark.parametrize("kind", ["model", "sparse"])
def test_an_unchanged_corpus_writes_nothing(kind, corpus, request):
    model = request.getfixturevalue(kind)
    index, before = start(corpus, model)
    with index.locked():
        index.bm25()
    kept = contents(index.folder)
    with Counting(model) as embedded, mock.patch.object(corpus_index, "BM25", wraps=BM25) as made:
        made.load = BM25.load
        again, found = start(corpus, model)
        with again.locked():
            again.bm25()
    assert embedded == [] and not made.called and contents(index.folder) == kept
    assert kind == "sparse" or torch.equal(found, before)


@pytest.mark.parametrize("kind", ["model", "sparse"])
def test_an_appended_line_is_one_embedding(kind, corpus, request):
    model = request.getfixturevalue(kind)
    start(corpus, model)
    lines(corpus, [*LINES, "read a new one"])
    with Counting(model) as embedded:
        index, found = start(corpus, model)
    assert embedded == ["read a new one"]
    if kind == "model":
        torch.testing.assert_close(found[-1], torch.from_numpy(model.encode_document("read a new one")))
    else:
        assert found.size == 51 and len(list(index.folder.rglob("inverted-*"))) == 1, "the earlier one is deleted"


def test_changed_and_removed_and_moved_lines(corpus, model):
    _, before = start(corpus, model)
    changed = [*LINES[40:], "quite another", *LINES[:20]]
    lines(corpus, changed)
    with Counting(model) as embedded:
        _, found = start(corpus, model)
    assert embedded == ["quite another"]
    assert torch.equal(found[:10], before[40:]) and torch.equal(found[11:], before[:20])


def test_equal_lines_are_embedded_once(corpus, model):
    lines(corpus, ["a b", "c d", "a b", "a b"])
    with Counting(model) as embedded:
        _, found = start(corpus, model)
    assert embedded == ["a b", "c d"] and torch.equal(found[[0, 0]], found[[2, 3]])


def test_no_more_than_half_is_stale(corpus, model):
    index, before = start(corpus, model)
    block = next(index.folder.glob("*/0.pt"))
    lines(corpus, LINES[:25])
    start(corpus, model)
    assert block.exists(), "half is not more than half"
    lines(corpus, ["one more", *reversed(LINES[:20])])
    with Counting(model) as embedded:
        _, found = start(corpus, model)
    assert embedded == ["one more"] and torch.equal(found[1:], before[:20].flip(0))
    assert [file.name for file in block.parent.glob("*.pt")] == ["2.pt"]
    assert len(torch.load(block.with_name("2.pt"))["keys"]) == 21
    with Counting(model) as embedded:
        assert torch.equal(start(corpus, model)[1], found) and embedded == []


def test_a_kill_while_stale_texts_are_deleted(corpus, model):
    """The new block is there, and some of the old ones too: texts are found twice, until the next start."""
    _, before = start(corpus, model)
    lines(corpus, LINES[:10])
    with mock.patch.object(Path, "unlink", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        start(corpus, model)
    index, found = start(corpus, model)
    assert torch.equal(found, before[:10]) and len(list(index.folder.glob("*/*.pt"))) == 1


def test_a_changed_model(corpus, model):
    """The same name with other weights; a model of another name has its own folder, which stays."""
    said = []
    index, _ = start(corpus, model, said=said)
    start(corpus, tiny_model(seed=2), said=said, name="other")
    assert said == []
    with Counting(changed := tiny_model(seed=1)) as embedded:
        _, found = start(corpus, changed, said=said)
    assert said == ["the model m has changed: all texts are embedded anew"] and len(embedded) == 50
    torch.testing.assert_close(found, torch.from_numpy(changed.encode_document(LINES)), atol=1e-6, rtol=0)
    assert len(list(index.folder.glob("*/model.json"))) == 2


def test_another_prompt_is_another_model(corpus):
    said, model = [], tiny_model()
    start(corpus, model, said=said)
    model.prompts["document"] = "read: "
    with Counting(model) as embedded:
        start(corpus, model, said=said)
    assert len(said) == 1 and len(embedded) == 50


def test_fewer_active_words_are_another_embedding(corpus, sparse):
    start(corpus, sparse)
    few = SparseEncoder(DATA / "folders/st6/idf", max_active_dims=3)
    index = start(corpus, few)[1]
    assert 0 < len(index.postings[1]) <= 3 * 50


def test_another_version(corpus, model):
    index, _ = start(corpus, model)
    (index.folder / "format.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"index was written by another version of minist: .*2.*: delete this folder"):
        start(corpus, model)


def test_a_folder_of_a_person(corpus, model):
    corpus.with_name("index").mkdir()
    corpus.with_name("index").joinpath("letter.txt").touch()
    with pytest.raises(ValueError, match="index holds other files than an index: name a new folder by --index"):
        start(corpus, model)
    assert [file.name for file in corpus.with_name("index").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("change", [lambda file: lines(file, [*LINES, "more"]), lambda file: os.utime(file, (1, 1))])
def test_a_corpus_that_changes_meanwhile(change, corpus, model):
    def embed(*arguments):
        change(corpus)
        return own(*arguments)

    own = model.embed
    with (
        mock.patch.object(model, "embed", embed),
        pytest.raises(ValueError, match=r"docs.txt has changed meanwhile: run it again"),
    ):
        start(corpus, model)
    with Counting(model) as embedded:
        start(corpus, model)
    assert set(embedded) <= {"more"}, "what was embedded is kept"


def test_blank_lines_are_no_documents(corpus, model):
    lines(corpus, ["", "one", " \t", "two\r", ""])
    index, found = start(corpus, model)
    assert index.documents == [Document("one", 2, None), Document("two", 4, None)] and len(found) == 2


@pytest.mark.parametrize("content", ["", "\n\n", " \n"])
def test_an_empty_corpus(content, corpus, model):
    corpus.write_text(content)
    with pytest.raises(ValueError, match=r"docs.txt(,| is empty| holds no text: all of its lines are blank)"):
        start(corpus, model)
    assert not corpus.with_name("index").exists()


def test_columns_titles_and_ids(tmp_path):
    rows = [{"_id": "d1", "title": "A", "text": "b"}, {"_id": "d2", "text": "ü"}, {"_id": 3, "title": "", "text": " "}]
    file = write_jsonl(tmp_path / "d.jsonl", rows)
    found = CorpusIndex(file, "", tmp_path / "i", print).documents
    assert found == [Document("A b", 1, "d1"), Document("ü", 2, "d2")]
    file = tmp_path / "d.csv"
    file.write_text('id,body,title\n7,"two\nlines",t\n8,b,t\n')
    assert CorpusIndex(file, "body", tmp_path / "i", print).documents == [
        Document("two\nlines", 1, "7"),
        Document("b", 2, "8"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("d.csv", "a,b\n1,2\n", "", "there is no column 'text', it has a, b"),
        ("d.jsonl", '{"text": 3}\n', "", "'text' is 3, but a text is wanted"),
        ("d.txt", "a\n", "body", "is read as lines of text, which have no columns: leave out --column"),
    ],
)
def test_mistakes_in_a_corpus(name, content, column, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        CorpusIndex(tmp_path / name, column, tmp_path / "i", print)


KILLED = """
import sys, time
from pathlib import Path
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval import corpus_index
corpus_index.BLOCK_TEXTS = 8
model = SentenceTransformer("m", device="cpu")
own = model.embed
def slow(*arguments):
    time.sleep(0.3)
    return own(*arguments)
model.embed = slow
index = corpus_index.CorpusIndex(Path("docs.txt"), "", Path("index"), print)
with index.locked():
    print("locked", flush=True)
    index.dense("m", model)
"""


def process(here):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )


@pytest.mark.slow
def test_killed_and_started_again(corpus, tmp_path, monkeypatch):
    """The blocks of a run that was killed, and of the one after it, are bit for bit those of a run that was not."""
    tiny_model().save(tmp_path / "m")
    child = process(tmp_path)
    done = 0
    while done < 3:
        assert child.poll() is None
        time.sleep(0.01)
        with suppress(FileNotFoundError):  # what glob looks into gets its final name meanwhile
            done = len(list(tmp_path.glob("index/*/*.pt")))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    next(tmp_path.glob("index/m-*")).joinpath(".5.pt.abc.partial").mkdir()  # as a kill while writing leaves one
    monkeypatch.setattr(corpus_index, "BLOCK_TEXTS", 8)
    model = SentenceTransformer(tmp_path / "m", device="cpu")
    done = len(list(tmp_path.glob("index/*/*.pt")))
    with Counting(model) as embedded:
        start(corpus, model)
    assert embedded == LINES[8 * done :] and 3 <= done < 7
    start(corpus, model, tmp_path / "whole")
    assert contents(tmp_path / "index") == contents(tmp_path / "whole") and len(contents(tmp_path / "whole")) == 10


@pytest.mark.slow
def test_the_second_process_waits(corpus, tmp_path):
    tiny_model().save(tmp_path / "m")
    child = process(tmp_path)
    assert child.stdout.readline() == b"locked\n"
    said, model = [], SentenceTransformer(tmp_path / "m", device="cpu")
    with Counting(model) as embedded:
        start(corpus, model, said=said)
    assert embedded == [] and child.wait() == 0
    assert said == [f"another process makes {tmp_path / 'index'}: waiting for it"]


@pytest.mark.parametrize("content", [b"", b"no block", None])
def test_a_damaged_block(content, corpus, model):
    index, before = start(corpus, model)
    block = next(index.folder.glob("*/0.pt"))
    block.write_bytes(block.read_bytes()[:1000] if content is None else content)
    with pytest.raises(ValueError, match=r"0.pt is damaged: delete it, and its texts are embedded again"):
        start(corpus, model)
    block.unlink()
    assert torch.equal(start(corpus, model)[1], before)


def test_what_killed_runs_leave_is_removed(corpus, model):
    index, _ = start(corpus, model)
    kept = contents(index.folder)
    (index.folder / ".bm25-1.abc.partial" / ".weights.abc.partial").mkdir(parents=True)
    next(index.folder.glob("m-*")).joinpath(".1.pt.abc.partial").mkdir()
    start(corpus, model)
    assert contents(index.folder) == kept and not list(index.folder.rglob("*.partial"))


def test_the_format_is_written_down(corpus, model):
    index, _ = start(corpus, model)
    assert json.loads((index.folder / "format.json").read_text()) == corpus_index.FORMAT
