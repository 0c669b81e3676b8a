"""A text column of a parquet file, for those who have pyarrow; the only file that imports it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROWS = 4096  # that are read at a time


def _open(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{file} is parquet, which needs pyarrow: pip install pyarrow, or make it jsonl") from None
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{file} is no parquet file: {e}") from None


def count_parquet(file: Path) -> int:
    """Rows of the file."""
    return _open(file).metadata.num_rows


def read_parquet(file: Path, column: str) -> Iterator[str]:
    """The texts of `column`. ValueError where there is no such column, or no text in a row."""
    table = _open(file)
    if column not in table.schema_arrow.names:
        raise ValueError(f"{file}: there is no column {column!r}, it has {', '.join(table.schema_arrow.names)}")
    for number, text in enumerate(_values(file, table, column), 1):
        if not isinstance(text, str):
            given = "null" if text is None else str(text)[:60]
            raise ValueError(f"{file}, row {number}: {column!r} is {given}, but a text is wanted")
        yield text


def _values(file: Path, table: Any, column: str) -> Iterator[Any]:
    import pyarrow

    try:
        for batch in table.iter_batches(ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{file}: the column {column!r} is damaged: {str(e).partition(chr(10))[0]}") from None
