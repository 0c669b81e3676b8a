"""Labels of columns and of .npy files."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from tiny import write_jsonl

from minist.data.labels import Labels, LabelWriter, check_label_file
from minist.data.rows import parse_number, read_places


def write_csv(file, labels):
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream, delimiter="," if file.suffix == ".csv" else "\t")
        writer.writerows([["label", "other"], *([label, "x"] for label in labels)])
    return file


def read(tmp_path, *files, wants=""):
    """Two rows at a time."""
    places = list(read_places(files, {"label": "label"}))
    writer = LabelWriter(files, "label", wants, "")
    for start in range(0, len(places), 2):
        writer.write(places[start : start + 2])
    return Labels(tmp_path, json.loads(json.dumps(writer.save(tmp_path))))


def jsonl(tmp_path, labels, name="rows.jsonl"):
    return write_jsonl(tmp_path / name, [{"label": label} for label in labels])


@pytest.mark.parametrize(
    ("labels", "expected", "dtype", "described"),
    [
        ([3, -1, 0, 7, 7], [3, -1, 0, 7, 7], torch.int64, "integers from -1 to 7"),
        ([3, -1, 0, 7, 0.5], [3, -1, 0, 7, 0.5], torch.float32, "numbers from -1 to 7"),
        ([0.5, 1, 2, 3, 4], [0.5, 1, 2, 3, 4], torch.float32, "numbers from 0.5 to 4"),
        ([1.0, 2.0, 2.0, 1.0, 2.0], [1, 2, 2, 1, 2], torch.float32, "numbers from 1 to 2"),
        ([True, False, True, True, 0], [1, 0, 1, 1, 0], torch.int64, "integers from 0 to 1"),
        (["no", "yes", "no", "é", "Yes"], [1, 2, 1, 3, 0], torch.int64, "4 classes (Yes, no, yes, é)"),
    ],
)
def test_a_label_in_each_row(tmp_path, labels, expected, dtype, described):
    found = read(tmp_path, jsonl(tmp_path, labels))
    taken = found.take(torch.tensor([4, 0, 3]))
    assert (taken.tolist(), taken.dtype) == ([expected[i] for i in (4, 0, 3)], dtype)
    assert found.per_row().tolist() == expected
    assert torch.from_numpy(found.per_row()).dtype == dtype
    assert found.describe() == described


def test_class_names_are_sorted(tmp_path):
    found = read(tmp_path, jsonl(tmp_path, ["b", "c", "a", "b"]))
    assert found.classes == ["a", "b", "c"]
    assert [found.classes[i] for i in found.take(torch.arange(4))] == ["b", "c", "a", "b"]


def test_class_names_with_the_numbers_of_others(tmp_path):
    """A file to evaluate on may lack a class."""
    found = read(tmp_path, jsonl(tmp_path, ["b", "c", "b"]))
    found.number_classes(["c", "a", "b"])
    assert found.classes == ["c", "a", "b"]
    assert found.take(torch.arange(3)).tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match="the labels have the class 'b', known are 'a', 'c'"):
        found.number_classes(["a", "c"])
    numbers = read(tmp_path, jsonl(tmp_path, [0, 1]))
    with pytest.raises(ValueError, match="the labels have numbers, known are 'a', 'b'"):
        numbers.number_classes(["a", "b"])


def test_many_classes_are_described_briefly(tmp_path):
    found = read(tmp_path, jsonl(tmp_path, [f"c{i}" for i in range(9)]))
    assert found.describe() == "9 classes (c0, c1, c2, c3, c4, c5, c6, c7, ..)"


def test_lists(tmp_path):
    labels = [[1, 0.5], [2, 3], [-4, True]]
    found = read(tmp_path, jsonl(tmp_path, labels))
    taken = found.take(torch.tensor([2, 0]))
    assert (taken.tolist(), taken.dtype) == ([[-4, 1], [1, 0.5]], torch.float32)
    assert found.per_row() is None
    assert found.describe() == "lists of 2 numbers from -4 to 3"


def test_lists_of_integers_are_floats_too(tmp_path):
    """As each could be filled up with NaN."""
    found = read(tmp_path, jsonl(tmp_path, [[1, 2], [3, 4]]))
    assert found.take(torch.arange(2)).dtype == torch.float32


def test_lists_of_different_length_are_filled_up(tmp_path):
    found = read(tmp_path, jsonl(tmp_path, [[1, 2, 3], [], [4], [5, 6]]))
    nan = math.nan
    for rows, expected in (
        ([0, 1, 2], [[1, 2, 3], [nan] * 3, [4, nan, nan]]),
        ([2, 3], [[4, nan], [5, 6]]),
        ([1], [[]]),
        ([], torch.empty(0, 0)),
    ):
        taken = found.take(torch.tensor(rows, dtype=torch.int64))
        assert torch.equal(taken.isnan(), torch.as_tensor(expected).isnan())
        assert torch.equal(taken.nan_to_num(), torch.as_tensor(expected).nan_to_num())
    assert found.describe() == "lists of 0 to 3 numbers from 1 to 6"


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("cells", "expected", "dtype", "classes"),
    [
        (["3", "-1", " 2"], [3, -1, 2], torch.int64, []),
        (["3", "1e-1", ".5"], [3, 0.1, 0.5], torch.float32, []),
        (["3", "2", "x"], [1, 0, 2], torch.int64, ["2", "3", "x"]),
        (["true", "false", "true"], [1, 0, 1], torch.int64, ["false", "true"]),
        (["1_1", "1_2", "2_1"], [0, 1, 2], torch.int64, ["1_1", "1_2", "2_1"]),
    ],
)
def test_cells_of_a_table_are_numbers_if_all_are(tmp_path, ending, cells, expected, dtype, classes):
    found = read(tmp_path, write_csv(tmp_path / f"t.{ending}", cells))
    taken = found.take(torch.arange(3))
    assert taken.dtype == dtype
    assert torch.equal(taken, torch.tensor(expected, dtype=dtype))
    assert found.classes == classes


def test_text_in_one_of_two_tables_makes_names_of_all(tmp_path):
    files = [write_csv(tmp_path / "a.csv", ["1", "2"]), write_csv(tmp_path / "b.csv", ["x"])]
    assert read(tmp_path, *files).classes == ["1", "2", "x"]


def test_a_table_beside_jsonl(tmp_path):
    files = [jsonl(tmp_path, [1, 2]), write_csv(tmp_path / "b.csv", ["3"])]
    assert read(tmp_path, *files).take(torch.arange(3)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, "abc"], r'rows\.jsonl, row 3: .label. is "abc", but the labels before are numbers'),
        (["a", 2], "row 2: .label. is 2, but the labels before are class names"),
        ([[1], 2], "row 2: .label. is 2, but the labels before are lists of numbers"),
        ([1, [2]], r"row 2: .label. is \[2\], but the labels before are numbers"),
        ([1, None], "row 2: .label. is null, but a label is a number, a class name or a list of numbers"),
        (["a", ""], 'row 2: .label. is "", but a label is'),
        ([{"a": 1}], r'row 1: .label. is {"a": 1}, but a label is'),
        ([[1, "a"]], r'row 1: .label. is \[1, "a"\], but a label is'),
        ([[1, None]], r"row 1: .label. is \[1, null\], but a label is"),
        ([1, math.nan], "row 2: .label. is NaN, but a number is finite"),
        ([1, -math.inf], "row 2: .label. is -Infinity, but a number is finite"),
        ([[1, math.inf]], "row 1: .label. is Infinity, but a number is finite"),
        ([1e39], r"row 1: .label. is 1e\+39, but a number is finite and not that large"),
        ([2**53 + 2], "row 1: .label. is 9007199254740994, but a number is finite and not that large"),
        ([10**400], "row 1: .label. is 1000.*, but a number is finite and not that large"),
    ],
)
def test_what_is_no_label(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, jsonl(tmp_path, labels))


@pytest.mark.parametrize(
    ("cells", "message"), [(["1", "nan"], 'row 2: .label. is "nan"'), (["1", ""], 'row 2: .label. is ""')]
)
def test_what_is_no_label_in_a_table(tmp_path, cells, message):
    with pytest.raises(ValueError, match=rf"t\.csv, {message}, but"):
        read(tmp_path, write_csv(tmp_path / "t.csv", cells))


def test_large_numbers_are_exact(tmp_path):
    labels = [2**53, -(2**53), 2**53 - 1]
    assert read(tmp_path, jsonl(tmp_path, labels)).take(torch.arange(3)).tolist() == labels


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), ("3.0", 3.0), ("1e2", 100.0), ("", None), ("x", None), ("1_2", None)]
)
def test_numbers_in_text(text, number):
    found = parse_number(text)
    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize(
    ("values", "dtype", "described"),
    [
        (np.array([3, -1, 2], np.int32), torch.int64, "integers in l.npy"),
        (np.array([True, False, True]), torch.int64, "integers in l.npy"),
        (np.array([3.5, -1, 2], np.float64), torch.float32, "numbers in l.npy"),
        (np.array([[1, 2], [3, 4], [5, 6]], np.float16), torch.float32, "vectors of 2 numbers in l.npy"),
        (np.array([[1, 2], [3, 4], [5, 6]], np.int64), torch.float32, "vectors of 2 numbers in l.npy"),
    ],
)
def test_a_npy_file(tmp_path, values, dtype, described):
    np.save(tmp_path / "l.npy", values)
    found = Labels(tmp_path, check_label_file(tmp_path / "l.npy"))
    taken = found.take(torch.tensor([2, 0]))
    assert (taken.tolist(), taken.dtype) == (values[[2, 0]].tolist(), dtype)
    assert found.describe() == described
    per_row = found.per_row()
    if values.ndim == 2:
        assert per_row is None
    else:
        assert per_row.tolist() == values.tolist()


@pytest.mark.parametrize("shape", [(200_000,), (200_000, 2)])
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_a_npy_file_is_finite(tmp_path, shape, value):
    values = np.zeros(shape)
    values[150_000] = value
    np.save(tmp_path / "l.npy", values)
    with pytest.raises(ValueError, match=r"l\.npy, row 150001: a label is not a finite number"):
        check_label_file(tmp_path / "l.npy")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2, 2)), r"holds float64 \[2, 2, 2\]: labels are numbers, \[rows\] or \[rows, D\]"),
        (np.zeros((2, 0)), r"holds float64 \[2, 0\]"),
        (np.array(["a", "b"]), r"holds <U1 \[2\]: labels are numbers"),
        (np.array([1j]), r"holds complex128 \[1\]"),
        (np.array([{"a": 1}]), r"l\.npy is not a \.npy file of numbers"),
    ],
)
def test_what_a_npy_file_may_not_hold(tmp_path, values, message):
    np.save(tmp_path / "l.npy", values)
    with pytest.raises(ValueError, match=message):
        check_label_file(tmp_path / "l.npy")


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npy_file(tmp_path, content):
    (tmp_path / "l.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"l\.npy is not a \.npy file of numbers"):
        check_label_file(tmp_path / "l.npy")


def test_no_npy_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*l\.npy"):
        check_label_file(tmp_path / "l.npy")


def test_an_npz_is_no_npy_file(tmp_path):
    np.savez(tmp_path / "l.npz", a=np.zeros(3))
    (tmp_path / "l.npz").rename(tmp_path / "l.npy")
    with pytest.raises(ValueError, match=r"l\.npy is an \.npz, several arrays in one file"):
        check_label_file(tmp_path / "l.npy")


# ---------------------------------------------------------------- a loss that wants numbers


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["0.5", "1", "N/A"], r"row 3: 'label' is \"N/A\", but a number is wanted$"),
        (["4,5", "1", "2"], r"row 1: 'label' is \"4,5\", but a number is wanted: write 4.5"),
        (["0.5", "", "2"], r"row 2: 'label' is \"\", but a number is wanted"),
    ],
)
def test_numbers_are_wanted(tmp_path, cells, message):
    """They used to become the alphabetical numbers of classes."""
    files = [write_csv(tmp_path / "t.csv", cells), write_csv(tmp_path / "t.tsv", cells), jsonl(tmp_path, cells)]
    for file in files:
        with pytest.raises(ValueError, match=rf"{file.name}, {message}"):
            read(tmp_path, file, wants="numbers")


@pytest.mark.parametrize("cells", [["0.5", "1", "2"], ["0.5", 1, 2], [0.5, "1.0", True]])
def test_numbers_that_jsonl_spells_as_text(tmp_path, cells):
    found = read(tmp_path, jsonl(tmp_path, cells), wants="numbers")
    assert found.take(torch.arange(3)).tolist() == [0.5, 1, cells[2] if cells[2] is True else 2]
    assert found.classes == []


def test_lists_are_numbers_too(tmp_path):
    assert read(tmp_path, jsonl(tmp_path, [[1, 2.5], [3]]), wants="numbers").per_row() is None
