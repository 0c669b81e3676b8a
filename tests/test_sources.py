"""The text collections made of packages' files: tiny files in their formats, written by hand."""

import gzip
import json
import shutil
from types import SimpleNamespace

import pytest

from minist.data import sources
from minist.data.sources import freedict, packages, split, wordnet
from minist.data.sources.__main__ import main

DOG = (
    "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 003 @ 02083346 n 0000 @ 01317541 n 0000 ~ 01322604 n 0000"
    ' | a member of the genus Canis; has been domesticated; "the dog barked all night"; "a good dog"  '
)
GALORE = "00013887 00 s 02 abounding(a) 0 galore(ip) 0 001 & 00013662 a 0000 | existing in abundance  "
EAT = "01168468 34 v 01 eat 0 002 * 01201089 v 0000 @ 01170052 v 0000 02 + 08 00 + 02 00 | take in food  "


def test_a_synset():
    definition = "a member of the genus Canis; has been domesticated"
    words, examples = ("dog", "domestic dog", "Canis familiaris"), ("the dog barked all night", "a good dog")
    dog = wordnet.parse(DOG, "noun")
    assert dog == wordnet.Synset("02084071", words, definition, examples, "noun.animal", "02083346", [])
    assert dog.text == f"dog: {definition}"
    galore, eat = wordnet.parse(GALORE, "adj"), wordnet.parse(EAT, "verb")
    assert (galore.words, galore.kind, galore.hypernym) == (("abounding", "galore"), "adj.all", "")
    assert (eat.words, eat.kind, eat.hypernym, eat.examples) == (("eat",), "verb.consumption", "01170052", ())


def test_every_field():
    assert len(wordnet.FIELDS) == 45
    assert [wordnet.FIELDS[i] for i in (3, 28, 29, 43)] == ["Tops", "time", "body", "weather"]


def noun(number, hypernym):
    return wordnet.Synset(number, (f"n{number}",), "what it is", (), "noun.act", hypernym, [])


def test_the_tree():
    nouns = [noun("1", ""), noun("2", "1"), noun("3", "2"), noun("4", "1"), noun("7", "8"), noun("8", "7")]
    verb = wordnet.Synset("3", ("v",), "with the number of a noun", (), "verb.body", "2", [])
    half = wordnet.Half([*nouns[2:], verb], {noun.number: noun.hypernym for noun in nouns})
    three, four, seven = nouns[2], nouns[3], nouns[4]
    assert (three.path, four.path, verb.path) == (["1", "2", "3"], ["1", "4"], [])
    assert seven.path == ["8", "7"]  # of a circle, which has no root
    assert half.below["1"] == [three, four] and half.below["2"] == [three]  # though 1 and 2 are of the other half
    assert (wordnet.shared(three, four), wordnet.shared(three, three), wordnet.shared(three, seven)) == (1, 3, 0)


@pytest.fixture
def dictionary(tmp_path):
    """WordNet's files with a tree of nouns, three below each down to the seventh level, a verb and an adjective."""
    levels = [(depth, path) for depth in range(7) for path in range(3**depth)]
    number = {level: f"{i:08d}" for i, level in enumerate(levels)}
    nouns = ["  1 This software and database is being provided to you  "]
    for depth, path in levels:
        pointers = f"001 @ {number[depth - 1, path // 3]} n 0000" if depth else "000"
        start, name = f"{number[depth, path]} {4 + path % 2:02} n 01", f"n{depth}_{path}"
        nouns.append(f'{start} {name} 0 {pointers} | what {name} means; "a {name} here"  ')
    folder = tmp_path / "dict"
    folder.mkdir()
    (folder / "data.noun").write_text("\n".join(nouns) + "\n")
    (folder / "data.verb").write_text(EAT + "\n")
    (folder / "data.adj").write_text(GALORE + "\n")
    (folder / "data.adv").write_text("")
    return folder


def read(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def path_of(text):
    """n5_100: .. -> the places below the root, which its number written to base 3 tells."""
    depth, place = map(int, text.partition(":")[0].removeprefix("n").split())
    return tuple(place // 3 ** (depth - level) for level in range(depth + 1))


def shared(one, other):
    return sum(a == b for a, b in zip(path_of(one), path_of(other), strict=False))


def test_wordnet(dictionary, tmp_path):
    wordnet.make(tmp_path / "a", dictionary)
    wordnet.make(tmp_path / "b", dictionary)
    files = sorted((tmp_path / "a").rglob("*.jsonl"))
    assert [file.relative_to(tmp_path / "a").parent.name for file in files[::2]] == sorted(wordnet.PARTS)
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    for part in wordnet.PARTS:
        train, held = (read(tmp_path / "a" / part / f"{name}.jsonl") for name in ("train", "heldout"))
        assert len(train) > 3 * len(held) > 0
        assert not texts(train) & texts(held)


def texts(rows):
    return {str(value) for row in rows for column, value in row.items() if column not in ("label", "score")}


def test_rows_tell_of_the_tree(dictionary, tmp_path):
    wordnet.make(tmp_path, dictionary)
    part = {name: read(tmp_path / name / "train.jsonl") for name in wordnet.PARTS}
    assert {"words": "n1 2", "definition": "what n1_2 means"} in part["definitions"] + held(tmp_path, "definitions")
    assert {row["example"]: row["definition"] for row in part["examples"]}["a n5_7 here"] == "n5 7: what n5_7 means"
    for row in part["similarity"]:
        one, other = row["text1"], row["text2"]
        wu_palmer = 2 * shared(one, other) / (len(path_of(one)) + len(path_of(other)))
        assert row["score"] == pytest.approx(wu_palmer, abs=1e-4)
    for row in part["inference"]:
        premise, hypothesis = row["premise"], row["hypothesis"]
        common, lengths = shared(premise, hypothesis), (len(path_of(premise)), len(path_of(hypothesis)))
        is_a, reverse = common == lengths[1], common == lengths[0]
        expected = {(True, False): "entailment", (False, True): "neutral", (False, False): "contradiction"}
        assert row["label"] == expected[is_a, reverse]
    counts = [sum(row["label"] == label for row in part["inference"]) for label in ("entailment", "neutral")]
    assert counts[0] > 0 and abs(counts[0] - counts[1]) <= 2  # but what is held out
    for row in part["triplets"]:
        assert shared(row["anchor"], row["positive"]) > shared(row["anchor"], row["negative"])
    kinds = {row["text"]: row["label"] for row in part["classes"]}
    assert kinds["n5 8: what n5_8 means"] == "noun.act"
    assert kinds["eat: take in food"] == "verb.consumption"
    assert "adj.all" not in kinds.values()
    for row in part["class_triplets"]:
        assert kinds[row["anchor"]] == kinds[row["positive"]] != kinds[row["negative"]]


def held(folder, part):
    return read(folder / part / "heldout.jsonl")


def digits(number):
    """To base 64, as dictd writes it."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (digits(number // 64) if number >= 64 else "") + alphabet[number % 64]


def write_dictionary(folder, name, articles):
    index, text = [], b"x" * 5000  # so that places take several digits
    for word, article in articles:
        index.append(f"{word}\t{digits(len(text))}\t{digits(len(article.encode()))}\n")
        text += article.encode()
    (folder / f"freedict-{name}.index").write_text("".join(index), "utf-8")
    (folder / f"freedict-{name}.dict.dz").write_bytes(gzip.compress(text))


def test_freedict(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "HELD_OUT", 1)
    foreign = [
        ("00databaseinfo", "About this"),
        ("maus", "Maus /maʊs/ <fem, n, sg>\n [zool.] mouse <n>, mice <pl>\n"),
        ("auch nicht", 'auch nicht /x/\nany\n   Note: y\n      "Ich auch nicht."  - Nor do I.\n see: {kein}\n'),
        ("leer", "leer /x/\n"),
    ]
    english = [("quince", "quince /x/\n1. Quitte <fem>\n2. Apfel\n"), ("mouse", "mouse /x/\nMäuschen\n")]
    for language in freedict.LANGUAGES:
        write_dictionary(tmp_path, f"{language}-eng", foreign)
        write_dictionary(tmp_path, f"eng-{language}", english)
    freedict.make(tmp_path / "out", tmp_path)
    for language in freedict.LANGUAGES:
        rows = read(tmp_path / "out" / language / "train.jsonl") + held(tmp_path / "out", language)
        assert {(row["english"], row["translation"]) for row in rows} == {
            ("mouse", "Maus"),  # and not Mäuschen: a word has one translation
            ("any", "auch nicht"),
            ("Nor do I.", "Ich auch nicht."),
            ("quince", "Quitte"),
        }
        assert len(held(tmp_path / "out", language)) == 1


def test_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "HELD_OUT", 1)
    body = "A game of two players who move in turn,\n and the board has nine fields.\n .\n It is old."
    records = [
        f"Package: a\nDescription-md5: 1\nDescription-en: small board game\n {body}\n",
        f"Package: b\nDescription-en: small board game again\n {body}\n",  # the body again
        "Package: c\nDescription-en: a short one here\n Too little.\n",
        f"Package: d\nDescription-en: another board game\n {body.replace('nine', 'ten')}\n",
        f"Package: e\nDescription-en: third board game\n {body.replace('nine', 'four')}\n",
    ]
    (tmp_path / "x_i18n_Translation-en").write_text("\n".join(records))
    packages.make(tmp_path / "out", tmp_path)
    rows = read(tmp_path / "out" / "train.jsonl") + read(tmp_path / "out" / "heldout.jsonl")
    assert sorted(row["title"] for row in rows) == ["another board game", "small board game", "third board game"]
    expected = "A game of two players who move in turn, and the board has {} fields. It is old."
    assert {row["body"] for row in rows} == {expected.format(fields) for fields in ("nine", "ten", "four")}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that alone is searched for programs; writes one there."""

    def program(name, text):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    (tmp_path / "bin").mkdir()
    for name in ("sh", "mkdir", "cp", "touch"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return program


def test_packages_are_fetched_and_unpacked(programs):
    programs("apt-get", 'for last; do :; done; case " $*" in *" download "*) touch "${last}_1.deb" ;; esac')
    programs("dpkg-deb", 'mkdir -p "$3/usr/share" && cp "$2" "$3/usr/share/$2.txt"')
    with packages.package_files(None, "usr/share", "small", "small-too") as root:
        assert sorted(file.name for file in root.iterdir()) == ["small-too_1.deb.txt", "small_1.deb.txt"]
    assert not root.exists()
    with packages.package_files(None, "") as root:
        assert [*root.iterdir()] == []


@pytest.mark.parametrize("step", ["update", "download"])
def test_a_package_that_cannot_be_fetched(programs, step):
    programs("apt-get", f"case \" $*\" in *\" {step}\"*) echo 'W: slow' >&2; echo 'E: no network' >&2; exit 100; esac")
    with (
        pytest.raises(ValueError, match=r"^E: no network: use .* a folder"),
        packages.package_files(None, "", "small"),
    ):
        pass


def test_a_system_without_debians_programs(programs, tmp_path):
    with pytest.raises(ValueError, match=r"apt-get.*not found: use Debian or Ubuntu"):
        packages.make(tmp_path / "out", None)


def test_a_source_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(folder, given):
        split.write_split(folder / "similarity", [{"a": "b"}], [{"a": "c"}])

    monkeypatch.setitem(sources.SOURCES, "wordnet", SimpleNamespace(make=make))
    sources.prepare_source("wordnet/similarity")
    assert read(tmp_path / "data/wordnet/similarity/train.jsonl") == [{"a": "b"}]
    with pytest.raises(ValueError, match="remove data/wordnet, it is made anew"):
        sources.prepare_source("wordnet/classes")
    for name in ("wikipedia", "wordnet", "wordnet/x", "python_docs/x"):
        with pytest.raises(
            ValueError, match=f"source is '{name}', known are python_docs, packages, wordnet/definitions"
        ):
            sources.prepare_source(name)


def test_a_source_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError):
        sources.make_source("wordnet", tmp_path / "none")
    for source in ("python_docs", "packages"):  # a folder that has none of their files, or is not there
        with pytest.raises(ValueError, match=f"none has too few texts for data/{source}"):
            sources.make_source(source, tmp_path / "none")
    assert [*(tmp_path / "data").iterdir()] == []


def test_few_rows_are_not_all_held_out():
    rows = [{"text": f"number {i}"} for i in range(10)]
    train, held_out = split.hold_out([*rows, {"text": "Number 3!"}])
    assert (len(train), len(held_out)) == (7, 3)
    assert sorted(row["text"] for row in train + held_out) == [row["text"] for row in rows]


def test_what_is_held_out_is_not_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "HELD_OUT", 1)
    monkeypatch.setattr(split, "MOST", 2)
    train = [{"a": text, "label": "x"} for text in ("One!", "two", "three", "four")]
    split.write_split(tmp_path, train, [{"a": "one", "label": "x"}, {"a": "two", "label": "x"}])
    assert read(tmp_path / "train.jsonl") == train[1:3]  # two is not held out: there is place for one
    assert read(tmp_path / "heldout.jsonl") == [{"a": "one", "label": "x"}]


def test_the_command(tmp_path, monkeypatch, dictionary, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sources", "wordnet", str(dictionary)])
    main()
    main()  # in a script it may stand before every run
    says = "making the text collection data/wordnet\nthe text collection data/wordnet is there already\n"
    assert capsys.readouterr().out == says
    monkeypatch.setattr("sys.argv", ["sources", "wikipedia"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "known are python_docs, packages, wordnet, freedict" in capsys.readouterr().err
