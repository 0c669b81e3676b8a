"""Arrays on disk that grow."""

import numpy as np
import pytest

from minist.data.arrays import ArrayWriter, OffsetsWriter, read_array


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64", "uint64", "float64", "bool"])
def test_what_is_appended_is_read(tmp_path, dtype):
    with ArrayWriter(tmp_path / "a", dtype) as writer:
        writer.append([1, 0, 1])
        writer.append([])
        writer.append(np.arange(6)[::3] > 2)  # not contiguous, of another type
    found = read_array(tmp_path / "a", dtype)
    assert found.dtype == dtype
    assert found.tolist() == [1, 0, 1, 0, 1]


def test_offsets(tmp_path):
    with OffsetsWriter(tmp_path / "o") as writer:
        for lengths in ([2, 0, 3], [], [1]):
            writer.extend(np.array(lengths, np.int32))
    assert read_array(tmp_path / "o", np.int64).tolist() == [0, 2, 2, 5, 6]


def test_nothing(tmp_path):
    with ArrayWriter(tmp_path / "a", np.int32):
        pass
    assert read_array(tmp_path / "a", np.int32).shape == (0,)
