"""Writes a data set to disk as its rows come by, in bounded memory. dataset.py says what the files hold."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from minist.data.arrays import ArrayWriter, OffsetsWriter
from minist.data.labels import FileLabels, LabelWriter, is_label_file
from minist.data.rows import Place, TextCells
from minist.data.text_column import ColumnSpec, TextColumnWriter
from minist.data.tokenizer import Tokenizer


class DatasetWriter:
    """All files of a data set but meta.json; a context manager that closes them."""

    def __init__(self, folder: Path, files: Sequence[Path], columns: Mapping[str, ColumnSpec], label: str) -> None:
        """`label` as in `prepare_dataset`. ValueError if it is a file without finite numbers."""
        numbers = {content: i for i, content in enumerate(dict.fromkeys(contents(columns).values()))}
        self.stored = {name: numbers[content] for name, content in contents(columns).items()}
        self.specs = list({self.stored[name]: spec for name, spec in columns.items()}.values())  # each text once
        self.sources = [spec.source for spec in columns.values()]
        self.cells = {source: TextCells(source) for source in self.sources}
        self.texts = [TextColumnWriter(folder / str(i), spec) for i, spec in enumerate(self.specs)]
        self.keys = KeysWriter(folder)
        self.labels: LabelWriter | None = None
        self.label_file: FileLabels | None = None
        if is_label_file(label):
            self.label_file = FileLabels(Path(label))
            self.label_file.check_finite()
        elif label:
            self.labels = LabelWriter(folder, files, label)
        self.needed = [*self.cells, *([self.labels.column] if self.labels else [])]  # columns of the files
        self.rows = 0

    def __enter__(self) -> "DatasetWriter":
        with ExitStack() as stack:
            for writer in self.texts:
                stack.enter_context(writer)
            stack.enter_context(self.keys)
            if self.labels:
                stack.enter_context(self.labels)
            self.streams = stack.pop_all()  # closed in __exit__
        return self

    def __exit__(self, *error: object) -> None:
        self.streams.close()

    def write(self, places: Sequence[Place]) -> None:
        """Append rows. ValueError names the one that cannot be read."""
        texts = {source: cells.read(places) for source, cells in self.cells.items()}
        if self.labels:
            self.labels.write(places)
        for writer, spec in zip(self.texts, self.specs, strict=True):
            writer.write(*texts[spec.source], ragged=bool(self.cells[spec.source].are_lists))
        self.keys.write(texts, self.sources)
        self.rows += len(places)

    def meta(self) -> dict[str, Any]:
        """The content of meta.json. ValueError if the label file has not a row for each of ours."""
        label: dict[str, Any] | None = self.labels.meta() if self.labels else None
        if self.label_file:
            self.label_file.check_rows(self.rows)
            label = {"file": str(self.label_file.file.resolve())}
        texts = [writer.meta() for writer in self.texts]
        return {"rows": self.rows, "columns": self.stored, "texts": texts, "label": label}


class KeysWriter:
    """Writes the hashes of the raw texts, row after row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.streams = ExitStack()

    def __enter__(self) -> "KeysWriter":
        self.hashes = self.streams.enter_context(ArrayWriter(self.folder / "keys.hashes", np.uint64))
        self.offsets = self.streams.enter_context(OffsetsWriter(self.folder / "keys.offsets"))
        return self

    def __exit__(self, *error: object) -> None:
        self.streams.close()

    def write(self, texts: Mapping[str, tuple[list[str], np.ndarray]], sources: Sequence[str]) -> None:
        """Append rows: the texts of each source, and how many a row has. Two columns may have one of `sources`."""
        hashed = {source: text_hashes(texts[source][0]) for source in texts}
        counts = [texts[source][1] for source in sources]
        rows = np.concatenate([np.repeat(np.arange(len(count)), count) for count in counts])
        order = np.argsort(rows, kind="stable")  # column after column -> row after row
        self.hashes.append(np.concatenate([hashed[source] for source in sources])[order])
        self.offsets.extend(np.sum(counts, axis=0))


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """64 bits of each text, [N] uint64: two different ones among a million agree with a chance of 1 in 40 million."""
    digests = b"".join([hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def text_hash(text: str) -> int:
    """The hash of one text."""
    return int(text_hashes([text])[0])


def contents(columns: Mapping[str, ColumnSpec]) -> dict[str, tuple[str, str, str]]:
    """Of each column: source, hash of the tokenizer, prompt. Columns that agree in it have the same tokens."""
    tokenizers = {id(spec.tokenizer): spec.tokenizer for spec in columns.values()}
    hashes = {key: _tokenizer_hash(tokenizer) for key, tokenizer in tokenizers.items()}  # slow for a large vocabulary
    return {name: (spec.source, hashes[id(spec.tokenizer)], spec.prompt) for name, spec in columns.items()}


def _tokenizer_hash(tokenizer: Tokenizer) -> str:
    content = f"{tokenizer.max_length} {tokenizer.special_tokens} {tokenizer.backend.to_str()}"
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
