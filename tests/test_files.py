"""Files that appear under their final name only when they are complete."""

import os
from pathlib import Path

import numpy as np
import pytest

from minist.files import check_file, complete_file, complete_folder, files_into, read_json, read_npy, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_the_block_is_done(tmp_path):
    target = tmp_path / "new" / "out.txt"
    with complete_file(target) as partial:
        partial.write_text("all of it")
        assert not target.exists()
        assert partial.parent.stat().st_dev == target.parent.stat().st_dev  # another file system could not rename
    assert target.read_text() == "all of it"
    assert names(target.parent) == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_file_when_the_block_raises(tmp_path, error):
    with pytest.raises(error), complete_file(tmp_path / "out.txt") as partial:
        partial.write_text("half")
        raise error
    assert names(tmp_path) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    (tmp_path / "out.txt").write_text("old")
    with pytest.raises(ValueError), complete_file(tmp_path / "out.txt") as partial:
        partial.write_text("half")
        raise ValueError
    assert (tmp_path / "out.txt").read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_folder_appears_when_the_block_is_done(tmp_path, there):
    if there != "nothing":
        (tmp_path / "out").mkdir()
    with complete_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("new")
        assert not (tmp_path / "out/a").exists()
        assert partial.parent == tmp_path
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_folder_when_the_block_raises(tmp_path, error):
    with pytest.raises(error), complete_folder(tmp_path / "out") as partial:
        (partial / "a").touch()
        raise error
    assert names(tmp_path) == []


def test_the_first_folder_stays(tmp_path):
    """Another process may have mapped it."""
    with complete_folder(tmp_path / "out") as ours:
        (ours / "a").write_text("ours")
        with complete_folder(tmp_path / "out") as theirs:  # of the same process number, on another machine
            (theirs / "a").write_text("theirs")
        kept = (tmp_path / "out/a").stat().st_ino
    assert (tmp_path / "out/a").read_text() == "theirs"
    assert (tmp_path / "out/a").stat().st_ino == kept
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_folders_place_stays(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError), complete_folder(tmp_path / "out") as partial:
        (partial / "a").touch()
    assert (tmp_path / "out").read_text() == "a file"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("way", ["", "link", "."])
def test_files_into_a_folder_of_a_person(tmp_path, monkeypatch, way):
    folder = tmp_path / "clone"
    (folder / ".git").mkdir(parents=True)
    for name in (".git/HEAD", "README.md", "modules.json"):
        (folder / name).write_text("old")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    with files_into(Path(way) if way == "." else tmp_path / (way or "clone")) as partial:
        (partial / "1_Pooling").mkdir()
        for name in ("modules.json", "1_Pooling/config.json"):
            (partial / name).write_text("new")
            assert (folder / "modules.json").read_text() == "old"
    assert names(folder) == [".git", "1_Pooling", "README.md", "modules.json"]
    assert [(folder / name).read_text() for name in (".git/HEAD", "README.md", "modules.json")] == ["old", "old", "new"]
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["clone", "link"]


def test_nothing_goes_into_it_when_the_block_raises(tmp_path):
    with pytest.raises(ValueError), files_into(tmp_path / "new") as partial:
        (partial / "a").touch()
        raise ValueError
    assert names(tmp_path / "new") == []


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("none", "there is no file"), (".", "is not a file"), ("pipe", "is not a file")):
        with pytest.raises(ValueError, match=message):
            check_file(tmp_path / name)


def test_npy(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    assert read_npy(tmp_path / "a.npy").tolist() == [0, 1, 2]
    np.savez(tmp_path / "b.npz", np.arange(3))
    (tmp_path / "c.npy").write_text("x")
    np.save(tmp_path / "d.npy", np.array([{}]))
    for name, message in (
        ("b.npz", r"b\.npz is an \.npz, several arrays"),
        ("c.npy", r"c\.npy is not a \.npy file"),
        ("d.npy", "is not a"),
    ):
        with pytest.raises(ValueError, match=message):
            read_npy(tmp_path / name)


def test_json(tmp_path):
    content = {"größe": [1, 2.5, None], "b": {"c": True}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "größe" in (tmp_path / "a.json").read_text("utf-8")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is not JSON: .*line 1"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")
