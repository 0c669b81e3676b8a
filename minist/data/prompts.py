"""Prompts of a config: which text is put before the texts of each column."""

from collections.abc import Mapping, Sequence
from typing import Any

from minist.checks import pick


def resolve_prompts(
    prompts: str | Mapping[str, Any], name: str, names: Sequence[str], columns: Sequence[str]
) -> dict[str, str]:
    """The prompt of each of `columns` of the data set `name`, one of `names`; "" where none is given.

    `prompts` has one of four forms:

        "query: "                                       for every text
        {anchor = "query: ", positive = "passage: "}    {column: prompt}
        {nli = "classify: "}                            {data set: prompt}
        {nli = {anchor = "query: "}}                    {data set: {column: prompt}}

    What is both a data set and a column means the data set. ValueError for other keys, and a prompt that is no text."""
    if isinstance(prompts, Mapping):
        for key in prompts:
            pick("a key of prompts, a column or a data set,", key, dict.fromkeys([*columns, *names]))
        others = {key: prompt for key, prompt in prompts.items() if key not in names}
        prompts = prompts.get(name, others)  # a data set that is named takes its own entry and nothing else
    if isinstance(prompts, str):
        prompts = dict.fromkeys(columns, prompts)
    if not isinstance(prompts, Mapping) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ValueError(f"prompts of {name!r} are {prompts!r}: give a text, or a text for each column")
    for key in prompts:
        pick(f"a column in the prompts of {name!r}", key, dict.fromkeys(columns))
    return {column: prompts.get(column, "") for column in columns}
