"""TOML tables into frozen dataclasses and back. An unknown key is an error that names the nearest known one."""

import difflib
import json
import tomllib
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

Table = dict[str, Any]


def read_table(file: Path, overrides: list[str]) -> Table:
    """The content of a TOML file, changed by `--set` overrides such as "train.lr=3e-5"."""
    if not file.is_file():
        raise ValueError(f"there is no config file {file}")
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except ValueError as e:
        raise ValueError(f"{file} is not TOML: {e}") from None
    for override in overrides:
        _override(table, override)
    return table


def _override(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"--set {override}: write key=value, for instance train.lr=3e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a string without quotes
    *parents, last = key.split(".")
    place: Any = table
    for parent in parents:  # a number picks an entry of [[data]] or [[eval]]: eval.0.name
        try:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        except (ValueError, IndexError):
            raise ValueError(f"--set {override}: {parent!r} is no entry, there are 0 to {len(place) - 1}") from None
        if not isinstance(place, dict | list):
            raise ValueError(f"--set {override}: {parent!r} is a value, it has no keys")
    if not isinstance(place, dict):
        raise ValueError(
            f"--set {override}: {'.'.join(parents)} has no keys; for a list name the entry: {parents[0]}.0.{last}"
        )
    place[last] = value


def build(kind: Any, table: Any, where: str) -> Any:
    """An instance of the dataclass `kind`; `where` is what messages call the place. ValueError says what is wrong."""
    if not isinstance(table, dict):
        raise ValueError(f"config: {where} must be a table of keys and values, it is {json.dumps(table)}")
    known = {f.name: f for f in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise ValueError(
                f"config: {where} has no key {key!r}, the nearest is {near[0]!r}; known are {', '.join(known)}"
            )
    values = {key: _value(known[key], value, where) for key, value in table.items()}
    required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"config: {where} lacks the key {missing[0]!r}")
    return kind(**values)


def _value(known: Field[Any], value: Any, where: str) -> Any:
    name, kind = known.name, known.type
    if is_dataclass(kind):
        return build(kind, value, f"[{name}]")
    if get_origin(kind) is list and is_dataclass(get_args(kind)[0]):
        if not isinstance(value, list):
            raise ValueError(f"config: {name} is a list of tables: write [[{name}]]")
        return [build(get_args(kind)[0], entry, f"[[{name}]]") for entry in value]
    if name == "loss" and isinstance(value, str):
        value = {"name": value}
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    wanted = [get_origin(k) or k for k in kinds]  # dict of dict[str, Any]
    if wanted == [float] and type(value) is int:
        value = float(value)
    if type(value) not in wanted:
        names = " or ".join(k.__name__ for k in wanted)
        raise ValueError(f"config: {name} in {where} must be of type {names}, it is {value!r}")
    return value


def to_toml(config: Any) -> str:
    """A dataclass as TOML, defaults written out, so that a run says all of what it was."""
    return "\n".join(_toml_lines(asdict(config), "")) + "\n"


def _toml_lines(table: Table, prefix: str) -> list[str]:
    lines, tables = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            tables += ["", f"[{prefix}{key}]", *_toml_lines(value, f"{prefix}{key}.")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                tables += ["", f"[[{prefix}{key}]]", *_toml_lines(entry, f"{prefix}{key}.")]
        else:
            name = key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return lines + tables
