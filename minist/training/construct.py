"""An object that a config names: a class of a package, or of a file of the user's, and its arguments."""

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args


def make(what: str, table: Mapping[str, Any], package: ModuleType, kind: type) -> Any:
    """An object of `kind` from {"name": class name, **arguments}.

    The class is found in `package`, or in a file as "path/to/file.py:Name". Arguments that are such tables themselves,
    or names where the class declares a `kind`, are made first: a loss inside a loss. ValueError lists the classes
    there are, or the arguments that one takes.
    """
    arguments = dict(table)
    name = arguments.pop("name", "")
    if not isinstance(name, str):
        raise ValueError(f"config: {what} is {name!r}, it must be a name")
    found = _from_file(name) if ".py:" in name else vars(package)[name] if name in package.__all__ else None
    if found is None:
        raise ValueError(f"config: {what} is {name!r}, known are {', '.join(package.__all__)}, or path/to/file.py:Name")
    known = inspect.signature(found).parameters
    for argument, value in arguments.items():
        if argument not in known:
            raise ValueError(f"config: {name} has no argument {argument!r}, it takes {', '.join(known)}")
        arguments[argument] = _argument(f"{argument} of {name}", value, known[argument].annotation, package, kind)
    try:
        made = found(**arguments)
    except (TypeError, ValueError) as e:  # an argument of another type or value than it takes, or one that it lacks
        raise ValueError(f"config: {name} with {dict(table)}: {e}") from e
    if not isinstance(made, kind):
        raise ValueError(f"config: {what}: {name} is no {kind.__name__}, make it a subclass of {kind.__module__}")
    return made


def _argument(what: str, value: Any, annotation: Any, package: ModuleType, kind: type) -> Any:
    """The value itself; of a table with a name, or a name where one of `kind` is declared, the object it stands for."""
    if isinstance(value, list) and annotation is not kind:
        entries = kind if kind in get_args(annotation) else Any  # declared as a list of them, or as anything else
        return [_argument(what, entry, entries, package, kind) for entry in value]
    if isinstance(value, dict) and "name" in value:
        return make(what, value, package, kind)
    if annotation is not kind:
        return value
    if not isinstance(value, str):
        raise ValueError(f'config: {what} is {value!r}, it must be a name or a table: {{ name = "..", .. }}')
    return make(what, {"name": value}, package, kind)


def _from_file(reference: str) -> Callable[..., Any]:
    path, _, name = reference.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"config: there is no file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name not in vars(module):
        raise ValueError(f"config: {path} has no {name}")
    return vars(module)[name]
