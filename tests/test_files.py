"""Files that appear under their final name only when they are complete."""

import os

import pytest

from minist.files import complete_file, complete_folder, read_json, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_the_block_is_done(tmp_path):
    target = tmp_path / "new" / "out.txt"
    with complete_file(target) as partial:
        partial.write_text("all of it")
        assert not target.exists()
        assert partial.parent == target.parent  # another file system could not rename
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


def write_folder(folder, content="new", error=None):
    with complete_folder(folder, marker="marker") as partial:
        (partial / "marker").write_text(content)
        assert not (folder / "marker").exists() or (folder / "marker").read_text() == "old"
        if error:
            raise error


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "one of ours"])
def test_folder_appears_when_the_block_is_done(tmp_path, there):
    if there != "nothing":
        (tmp_path / "out").mkdir()
    if there == "one of ours":
        (tmp_path / "out" / "marker").write_text("old")
        (tmp_path / "out" / "stale").write_text("gone afterwards")
    write_folder(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["marker"]
    assert (tmp_path / "out" / "marker").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_folder_when_the_block_raises(tmp_path, error):
    with pytest.raises(error):
        write_folder(tmp_path / "out", error=error)
    assert names(tmp_path) == []


def test_a_failure_keeps_the_old_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "marker").write_text("old")
    with pytest.raises(ValueError):
        write_folder(tmp_path / "out", error=ValueError)
    assert (tmp_path / "out" / "marker").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="out exists and has no marker, so it is not overwritten"):
        write_folder(tmp_path / "out")
    assert names(tmp_path / "out") == ["thesis.tex"]
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="it is not overwritten"):
        write_folder(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


def test_what_a_killed_run_left_is_replaced(tmp_path):
    left = tmp_path / f".out.{os.getpid()}.partial"
    left.mkdir()
    (left / "half").touch()
    write_folder(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["marker"]


def test_json(tmp_path):
    content = {"größe": [1, 2.5, None], "b": {"c": True}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "größe" in (tmp_path / "a.json").read_text("utf-8")
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is not JSON: .*line 1"):
        read_json(tmp_path / "a.json")
