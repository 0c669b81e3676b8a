"""From TOML to objects: tables into frozen dataclasses and back, and classes of a package or of a user's own file."""

import difflib
import inspect
import json
import re
import runpy
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, get_args, get_origin

from torch import nn

from minist.checks import listing, pick

Table = dict[str, Any]
WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def read_table(file: Path, overrides: list[str]) -> Table:
    """The content of a TOML file, changed by `--set` overrides such as "train.lr=3e-5"."""
    if not file.is_file():
        raise ValueError(f"there is no config file {file}")
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{file} is not TOML: {e}") from None
    for override in overrides:
        _override(table, override)
    return table


def _override(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or any("\ud800" <= letter <= "\udfff" for letter in override):  # bytes that are no UTF-8
        raise ValueError(f"--set {override}: write key=value in UTF-8, for instance train.lr=3e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a string without quotes
    *parents, last = key.split(".")
    place: Any = table
    for parent in parents:  # a number picks an entry of [[data]] or [[eval]]: eval.0.name
        if isinstance(place, list):
            place = pick(f"--set {override}: the entry", parent, {str(i): entry for i, entry in enumerate(place)})
        elif isinstance(place, dict):
            place = place.setdefault(parent, {})
    if not isinstance(place, dict):
        hint = f"name the entry: {parents[0]}.0.{last}" if isinstance(place, list) else "it is a value"
        raise ValueError(f"--set {override}: {'.'.join(parents)} has no keys; {hint}")
    place[last] = value


def build(kind: Any, table: Any, where: str) -> Any:
    """An instance of the dataclass `kind`, whose fields all have defaults; `where` is what messages call the place."""
    known = {f.name: f for f in fields(kind)}
    for key in [key for key in table if key not in known]:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
        raise ValueError(f"config: {where} has no key {key!r}, the nearest is {near!r}; known are {listing(known)}")
    return kind(**{key: _value(known[key], value, where) for key, value in table.items()})


def _value(known: Field[Any], value: Any, where: str) -> Any:
    name, kind = known.name, known.type
    entries = get_origin(kind) is list and is_dataclass(get_args(kind)[0])
    shape = Table if is_dataclass(kind) else list[Table] if entries else kind
    what = f"config: {name} in {where}"
    if name in ("loss", "evaluator") and isinstance(value, str):
        value = {"name": value} if value else {}  # a name alone is one without arguments
    wanted, fits = understand(shape)
    if not fits(value):
        hint = f": write [[{name}]]" if entries else ""
        raise ValueError(f"{what} must be {wanted}, it is {value!r}{hint}")
    if is_dataclass(kind):
        return build(kind, value, f"[{name}]")
    if entries:
        return [build(get_args(kind)[0], entry, f"[[{name}]] {entry.get('name', '')}".rstrip()) for entry in value]
    if check := known.metadata.get("check"):
        for key, entry in value.items() if isinstance(value, dict) else [("", value)]:
            check(f"config: {key} in {name} in {where}" if key else what, entry)
    return float(value) if kind is float else value


def understand(kind: Any) -> tuple[str, Callable[[Any], bool]]:
    """What an annotation asks of a value of TOML: in words, and as a test, which all pass where it asks for no such."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        choices = [understand(part) for part in parts if part is not type(None)]
        return " or ".join(wanted for wanted, _ in choices), lambda value: any(fits(value) for _, fits in choices)
    if origin in (list, Sequence, Iterable):
        wanted, fits = understand(parts[0])
        return f"a list ({wanted} each)", lambda value: type(value) is list and all(map(fits, value))
    if origin in (dict, Mapping):
        wanted, fits = understand(parts[1])
        each = "" if parts[1] is Any else f" ({wanted} each)"
        return f"a table{each}", lambda value: type(value) is dict and all(map(fits, value.values()))
    types = (int, float) if kind is float else (kind,)  # whole numbers too; to isinstance true would be one as well
    return WORDS.get(kind, "a table with a name"), lambda value: type(value) in types or kind not in WORDS


def to_toml(table: Table, prefix: str = "") -> str:
    """A config's `asdict` as TOML, defaults written out, so that a run says all of what it was."""
    values, tables = "", ""  # values first: what stands behind a [table] would belong to it
    for key, value in table.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)  # TOML quotes others as JSON does
        if isinstance(value, dict):
            tables += f"\n[{prefix}{name}]\n{to_toml(value, f'{prefix}{name}.')}"
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                tables += f"\n[[{prefix}{name}]]\n{to_toml(entry, f'{prefix}{name}.')}"
        else:
            values += f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
    return values + tables


def make(what: str, table: Mapping[str, Any], package: ModuleType, kind: type) -> Any:
    """An object of `kind` from {"name": class name, **arguments}; arguments may be such tables: a loss in a loss."""
    arguments = dict(table)
    name = arguments.pop("name", "")
    made = call(name, find_class(what, name, package), arguments, package, kind, dict)
    if not isinstance(made, kind):
        raise ValueError(f"config: {what}: {name} is no {kind.__name__}, make it a subclass of {kind.__module__}")
    return made


def find_class(what: str, name: Any, package: ModuleType) -> Any:
    """The class of that name in `package`, or in a file as "path/to/file.py:Name"."""
    if isinstance(name, str) and ".py:" in name:
        path, _, inner = name.rpartition(":")
        if not Path(path).is_file():
            raise ValueError(f"config: there is no file {path}")
        try:
            found = runpy.run_path(path)
        except SyntaxError as e:
            raise ValueError(f"config: {path}, line {e.lineno} is not Python: {e.msg}") from None
        public = {key: value for key, value in found.items() if not key.startswith("_")}
        return pick(f"config: {what}: the name in {path}", inner, public)
    here = {known: vars(package)[known] for known in package.__all__}
    return pick(f"config: {what}", name, here | {"path/to/file.py:Name": None})


def call(name: str, function: Any, given: Table, package: ModuleType, kind: type, more: Callable[[], Table]) -> Any:
    """`function` of what is `given`, in the config and held against its signature, and of `more`."""
    known, made = inspect.signature(function).parameters, {}
    for key, value in given.items():
        annotation = pick(f"config: an argument of {name}", key, known).annotation
        made[key] = _argument(f"{key} of {name}", value, annotation, package, kind)
    made |= more()
    for key, p in known.items():
        is_open = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)  # *args and **kwargs may be empty
        if key not in made and p.default is p.empty and not is_open:
            raise ValueError(f"config: {name} lacks the argument {key!r}, it takes {listing(known)}")
    try:
        return function(**made)
    except (TypeError, ValueError) as e:  # a value that it does not take, or a type that no annotation tells
        why = f"a value is of a type that it does not take ({e})" if isinstance(e, TypeError) else e
        raise ValueError(f"config: {name}{f' with {given}' if given else ''}: {why}") from e


def _argument(what: str, value: Any, annotation: Any, package: ModuleType, kind: type) -> Any:
    """The value itself; of a table with a name, or a name where one of `kind` is declared, the object it stands for."""
    inner = kind if kind in get_args(annotation) else Any  # declared as a list of them, or as anything else
    wanted, fits = understand(annotation)
    if isinstance(value, list) and annotation is not kind and (inner is kind or fits(value)):
        return [_argument(what, entry, inner, package, kind) for entry in value]
    if isinstance(value, dict) and "name" in value:
        classes = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, nn.Module)]
        return make(what, value, package, next(iter(classes), kind))  # a part of a loss may be of a kind of its own
    is_one = annotation in (kind, kind | None)
    if is_one and isinstance(value, str):
        return make(what, {"name": value}, package, kind)
    if is_one or not fits(value):
        wanted = 'a name or a table: { name = "..", .. }' if is_one else wanted
        raise ValueError(f"config: {what} is {value!r}, it must be {wanted}")
    return value
