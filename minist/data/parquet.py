"""Rows of a parquet file, for those who have pyarrow; the only file that imports it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minist.checks import listing
from minist.files import check_file

ROWS = 4096  # that are read at a time


def _open(file: Path) -> Any:
    check_file(file)
    try:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(file)
    except ImportError:
        raise ValueError(f"{file} is parquet, which needs pyarrow: pip install pyarrow, or make it jsonl") from None
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{file} is no parquet file: {e}") from None


def count_parquet(file: Path) -> int:
    return _open(file).metadata.num_rows


def read_parquet(file: Path, columns: Sequence[str | int]) -> Iterator[dict[Any, Any]]:
    """`columns` of each row; lists and numbers as Python's own."""
    table = _open(file)
    names = table.schema_arrow.names
    for column in columns:
        if names.count(column) != 1:
            many = "several columns are called" if column in names else "there is no column"
            raise ValueError(f"{file}: {many} {column!r}, it has {listing(names, near=str(column))}")
    import pyarrow  # here, not above: whoever has no parquet needs none

    try:
        for batch in table.iter_batches(ROWS, columns=list(columns)):  # only these are read from the disk
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{file}: {listing(map(repr, columns))} is damaged: {str(e).partition(chr(10))[0]}") from None
