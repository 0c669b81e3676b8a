"""Prompts of a config: which text is put before the texts of each column."""

from collections.abc import Mapping, Sequence
from typing import Any


def resolve_prompts(
    prompts: str | Mapping[str, Any], name: str, names: Sequence[str], columns: Sequence[str]
) -> dict[str, str]:
    """The prompt of each of `columns` of the data set `name`, one of `names`; "" where none is given.

    `prompts` has one of four forms:

        "query: "                                       for every text
        {anchor = "query: ", positive = "passage: "}    {column: prompt}
        {nli = "classify: "}                            {data set: prompt}
        {nli = {anchor = "query: "}}                    {data set: {column: prompt}}

    A name that is both a data set and a column means the data set. A data set that is named takes its own
    entry and nothing else. ValueError for a key that is neither, and for a prompt that is no text.
    """
    if isinstance(prompts, Mapping):
        for key in prompts:
            if key not in names and key not in columns:
                raise ValueError(
                    f"prompts name {key!r}, which is neither a column ({', '.join(columns)}) "
                    f"nor a data set ({', '.join(names)})"
                )
        if name in prompts:
            prompts = prompts[name]
        else:
            prompts = {key: prompt for key, prompt in prompts.items() if key not in names}
    if isinstance(prompts, str):
        return dict.fromkeys(columns, prompts)
    return _of_columns(prompts, name, columns)


def _of_columns(prompts: Any, name: str, columns: Sequence[str]) -> dict[str, str]:
    if not isinstance(prompts, Mapping):
        raise ValueError(f"prompts of {name!r} are {prompts!r}: give a text, or a text for each column")
    for key, prompt in prompts.items():
        if key not in columns:
            raise ValueError(f"prompts of {name!r} name {key!r}, which is not a column: it has {', '.join(columns)}")
        if not isinstance(prompt, str):
            raise ValueError(f"the prompt of {key!r} in {name!r} is {prompt!r}: give a text")
    return {column: prompts.get(column, "") for column in columns}
