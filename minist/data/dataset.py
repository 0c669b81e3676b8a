"""A training set: text columns, tokenized once and kept on disk memory-mapped, and the labels of the rows.

<folder>/meta.json         rows, columns, label, and the size of each file
<folder>/0.*, 1.* ..       the text columns, see text_column.py; two columns with the same content share one
<folder>/keys.npy          uint64, hashes of the raw texts without prompts, row after row; equal texts have equal ones
<folder>/keys.offsets.npy  int64 [rows + 1], where the hashes of each row start
<folder>/labels.*          see labels.py
While it is made, all but the tokens is in memory: 60 MB of a million rows of two columns, twice that at the end."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minist.data.labels import Labels, LabelWriter, check_label_file, is_label_file
from minist.data.packed import Packed
from minist.data.rows import Column, Place, check_texts, file_kind, read_places
from minist.data.samplers import Keys
from minist.data.text_column import ColumnSpec, TextColumn, TextColumnWriter, offsets
from minist.data.texts import Texts
from minist.files import check_file, complete_folder, read_json, write_json
from minist.progress import progress_bar

LAYOUT = 3  # of the folder; a new number where the files change, so that old folders are made again
CHUNK = 1024  # rows that are tokenized at a time
Files = Sequence[Path]
Specs = Mapping[str, ColumnSpec]  # our names -> what they hold


class Dataset:
    """Rows of text columns, in the order in which the loss takes them, with or without labels."""

    def __init__(self, folder: Path) -> None:
        """Open what `prepare_dataset` made. ValueError if it is not whole any more."""
        self.folder, self.meta = folder, read_json(folder / "meta.json")
        damaged = "meta.json"
        try:
            found = {file.name: file.stat().st_size for file in folder.iterdir()}
            for damaged, size in self.meta["files"].items():
                assert found.get(damaged) == size, "it was cut short: tokens read from it would be others"
            damaged = "meta.json"  # whatever fails from here on
            stored = [TextColumn(folder / str(i), meta) for i, meta in enumerate(self.meta["texts"])]
            self.names: list[str] = list(self.meta["columns"])
            self.columns = [stored[i] for i in self.meta["columns"].values()]
            self._labels = Labels(folder, self.meta["label"]) if self.meta["label"] else None
        except (AssertionError, LookupError, TypeError, AttributeError):
            raise ValueError(f"{folder}: {damaged} is damaged: delete the folder, and it is made again") from None

    def __len__(self) -> int:
        return self.meta["rows"]

    @property
    def classes(self) -> list[str]:
        """In the order of their numbers; none where labels are numbers, or missing."""
        return self._labels.classes if self._labels else []

    def take(self, rows: Tensor) -> tuple[Packed, ...]:
        """The texts of `rows` [n] in every column; those of a cell that is a list stand one after the other."""
        return tuple(column.take(rows) for column in self.columns)

    def counts(self, rows: Tensor) -> tuple[Tensor | None, ...]:
        """Per column the number of texts in each row, [n] int64, or None where every cell is one text."""
        return tuple(column.counts(rows) for column in self.columns)

    def labels(self, rows: Tensor) -> Tensor | None:
        """[n] int64 for integers and classes, else [n] or [n, k] float32; lists are filled up with NaN."""
        return self._labels.take(rows) if self._labels else None

    def number_classes(self, classes: Sequence[str]) -> None:
        """Number the class names by their place in `classes`, those of training. ValueError if one is not there."""
        if self._labels and not self._labels.meta["file"]:  # a .npy file has numbers already
            self._labels.number_classes(classes)

    def check_classes(self, count: int) -> None:
        """ValueError for a label that is no class, 0 to count - 1; where `count` is 0 labels are no classes."""
        labels = self._labels.per_row() if self._labels and count else None
        if labels is None:
            return
        wrong = np.flatnonzero((labels < 0) | (labels >= count) | (labels != labels.astype(np.int64)))
        if len(wrong):
            label = float(labels[wrong[0]])
            way = "set num_labels to more" if label >= count and label.is_integer() else "leave such rows out"
            given = f"the label of row {wrong[0] + 1:,} is {label:g}"
            raise ValueError(f"{given}, classes are the whole numbers from 0 to {count - 1}: {way}")

    def tokens(self, rows: Tensor) -> Tensor:
        """Tokens of each of `rows` in all columns, [n] int64."""
        return torch.stack([column.tokens(rows) for column in self.columns]).sum(0)

    def cut(self, rows: Tensor) -> dict[str, int]:
        """Per column how many texts of `rows` were cut at the maximum length."""
        return {name: column.cut(rows) for name, column in zip(self.names, self.columns, strict=True)}

    def keys(self) -> Keys:
        hashes, starts = (np.load(self.folder / name, mmap_mode="r") for name in ("keys.npy", "keys.offsets.npy"))
        return Keys(hashes, starts, self._labels.per_row() if self._labels else None)

    def describe(self) -> str:
        """What was read, for a person to see that it is what they meant."""
        parts = [f"{name} {column.describe()}" for name, column in zip(self.names, self.columns, strict=True)]
        if self._labels:
            parts.append(f"label {self._labels.describe()}")
        return f"{len(self):,} rows: {'; '.join(parts)}"


def prepare_dataset(folder: Path, files: Files, specs: Specs, label: Column, format: str = "", wants: str = "") -> None:
    """Make the data set in `folder`, which is the `dataset_folder` of the rest. ValueError names file and row.
    `label` is a column of the files, or a .npy file with a row for each of theirs, [rows] or [rows, D]; "" for none.
    `wants` holds the word "numbers" where names of classes are no labels for the loss; "documents" where each row must
    have a text beside its first column; "per_document" where a list of labels has a number for each of these texts."""
    expected = Texts(tuple(files), ("",), format).count() or 0  # for the bar alone
    with complete_folder(folder) as partial, progress_bar(expected, "rows", "tokenizing") as bar:
        writer = _Writer(partial, files, specs, label, format, wants)
        places = read_places(files, writer.needed, format)
        while chunk := list(islice(places, CHUNK)):  # never all rows at once
            writer.write(chunk)
            bar.update(len(chunk))
        writer.save()


def dataset_folder(cache: Path, files: Files, specs: Specs, label: Column, format: str = "", wants: str = "") -> Path:
    """Below `cache`: its name is a hash of all that decides about the data set. ValueError where a file is missing."""
    label_file = [Path(str(label)).resolve()] if is_label_file(label) else []  # not copied, so its place counts too
    kinds = [format or file_kind(file) for file in files]
    settings = [LAYOUT, wants, list(_contents(specs).items()), kinds, str(label_file[0]) if label_file else label]
    seal = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8)
    for file in [*files, *label_file]:
        check_file(file)
        with open(file, "rb") as stream:  # its content, since a copy may be new and an edit may keep size and time
            seal.update(hashlib.file_digest(stream, "blake2b").digest())
    return cache / seal.hexdigest()


def _contents(specs: Specs) -> dict[str, tuple[Column, str, str]]:
    """Of each column: source, hash of the tokenizer, prompt. Columns that agree in it have the same tokens."""
    tokenizers = {id(spec.tokenizer): spec.tokenizer for spec in specs.values()}  # hashed once: slow for a large one
    settings = {key: f"{t.max_length} {t.special_tokens} {t.backend.to_str()}" for key, t in tokenizers.items()}
    hashes = {key: hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for key, text in settings.items()}
    return {name: (spec.source, hashes[id(spec.tokenizer)], spec.prompt) for name, spec in specs.items()}


class _Writer:
    def __init__(self, folder: Path, files: Files, specs: Specs, label: Column, format: str, wants: str) -> None:
        contents = _contents(specs)
        numbers = {content: i for i, content in enumerate(dict.fromkeys(contents.values()))}
        self.folder, self.label = folder, label
        self.stored = {name: numbers[content] for name, content in contents.items()}
        each = {self.stored[name]: spec for name, spec in specs.items()}  # each content is stored once
        self.texts = [(spec.source, TextColumnWriter(folder / str(i), spec)) for i, spec in each.items()]
        self.wants, self.documents = wants, [spec.source for spec in specs.values()][1:]
        self.label_file = check_label_file(Path(str(label))) if is_label_file(label) else None
        self.labels = LabelWriter(files, label, wants, format) if label != "" and not self.label_file else None
        self.are_lists: dict[Column, bool] = {}  # as the first row has it
        self.counts: dict[Column, list[np.ndarray]] = {s.source: [] for s in specs.values()}  # texts of each row
        self.hashes: list[np.ndarray] = []
        self.needed = {column: column for column in [*self.counts, *([label] if self.labels else [])]}  # of the files

    def write(self, places: Sequence[Place]) -> None:
        cells = {}
        for source, counts in self.counts.items():
            lists = self.are_lists.setdefault(source, isinstance(places[0].row[source], list))
            cells[source] = [check_texts(place, source, lists) for place in places]
            counts.append(np.fromiter(map(len, cells[source]), np.int64, len(places)))
        if "documents" in self.wants:
            self._check_documents(places)
        if self.labels:
            self.labels.write(places)
        for source, writer in self.texts:
            writer.write([text for cell in cells[source] for text in cell])
        row_after_row = zip(*cells.values(), strict=True)
        self.hashes.append(text_hashes([text for row in row_after_row for cell in row for text in cell]))

    def _check_documents(self, places: Sequence[Place]) -> None:
        found = np.sum([self.counts[source][-1] for source in self.documents], axis=0)
        for place, count in zip(places, found.tolist(), strict=True):
            if count == 0:
                raise place.error(self.documents[0], "a query without documents teaches nothing: leave the row out")
            label = place.row[self.label] if self.labels and "per_document" in self.wants else [None] * count
            if (len(label) if isinstance(label, list) else 1) != count:
                raise place.error(self.label, f"the row has {count} documents: give a list with a number for each")

    def save(self) -> None:
        texts_in_row = np.sum([np.concatenate(counts) for counts in self.counts.values()], axis=0)
        rows, folder = len(texts_in_row), self.folder
        texts = [w.save(offsets(self.counts[source]) if self.are_lists[source] else None) for source, w in self.texts]
        np.save(folder / "keys.npy", np.concatenate(self.hashes))
        np.save(folder / "keys.offsets.npy", offsets([texts_in_row]))
        if self.label_file and (given := self.label_file["rows"]) != rows:
            raise ValueError(f"{self.label} has {given:,} rows, the files have {rows:,}: make one for each")
        label = self.labels.save(folder) if self.labels else self.label_file
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        meta = {"rows": rows, "columns": self.stored, "texts": texts, "label": label, "files": sizes}
        write_json(folder / "meta.json", meta)  # last: it has the sizes of the others


def text_hashes(texts: Sequence[str]) -> np.ndarray:
    """64 bits of each text, [N] uint64: two different ones among a million agree with a chance of 1 in 40 million."""
    digests = b"".join([hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<u8").astype(np.uint64)  # Python's own hash() differs from process to process
