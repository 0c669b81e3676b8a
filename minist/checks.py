"""Checks of values that a person gave, each made once, where the value enters."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
ADVICE = {  # arguments of encode and predict in sentence-transformers, and what to do here
    "batch_size": "memory is bounded by batch_tokens",
    "chunk_size": "memory is bounded by batch_tokens",
    "convert_to_numpy": "numpy is what it gives, unless convert_to_tensor",
    "pool": 'give several devices: device=["cuda:0", "cuda:1"]',
    "task": "give the role: query or document",
    "sentences": "what is to be encoded comes first, without a name",
    "inputs": "what is to be encoded comes first, without a name",
    "max_length": "set model.max_length",
    "output_value": "encode_tokens gives the vectors of tokens",
    "normalize": "it is called normalize_embeddings",
    "save_to_cpu": "what it gives is on the CPU",
}
SHOWN = 30  # names in a message: a table may have thousands of columns


def pick(what: str, name: Any, table: Mapping[str, T]) -> T:
    """`table[name]`; else a ValueError, "`what` is 'cos', known are ..", the nearest first."""
    if isinstance(name, str) and name in table:
        return table[name]
    raise ValueError(f"{what} is {name!r}, known are {listing(table, near=str(name))}")


def listing(names: Iterable[Any], near: str = "") -> str:
    """Names for a message: those that resemble `near` first, no more than a person reads."""
    names = list(map(str, names))
    if len(names) <= SHOWN:
        return ", ".join(names) or "none"
    first = difflib.get_close_matches(near, names, n=3)
    ordered = [*first, *(name for name in names if name not in first)]
    return f"{', '.join(ordered[:SHOWN])} and {len(names) - SHOWN:,} more"


def number(what: str, value: Any, least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Any:
    """`value`, if it is a finite number from `least` to `most` that is more than `above`; else a ValueError says so."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)  # to Python True is a 1
    if is_number and abs(value) < math.inf and least <= value <= most and value > above:
        return value
    limits = [f"{word} {limit:g}" for word, limit in (("at least", least), ("at most", most), ("above", above))]
    wanted = " and ".join(text for text in limits if "inf" not in text)
    raise ValueError(f"{what} is {value!r}: use a number {wanted}".rstrip())


def whole(what: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """The same for what counts something. ValueError for 2.5 too; 2.0 is 2."""
    if number(what, value, least, most) % 1:
        raise ValueError(f"{what} is {value!r}: use a whole number")
    return int(value)


def refuse(given: Iterable[str], method: str, advice: Mapping[str, str] = ADVICE) -> None:
    """ValueError for the first of `given`, arguments that `method` has not, with what to do instead."""
    for name in given:
        hint = {**ADVICE, **advice}.get(name, f"help(model.{method}) lists them")
        raise ValueError(f"{method} has no argument {name}: {hint}")
