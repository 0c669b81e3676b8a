"""Progress bars, from tqdm, which arrives with tokenizers. The only file that imports it."""

import sys
from collections.abc import Callable

from tqdm import tqdm  # type: ignore[import-untyped]

Update = Callable[[int], object]  # "so many more are done"


def progress_bar(total: int, unit: str, what: str, show: bool | None = None) -> tqdm:
    """A bar on standard error; `total` 0 is not known; `show=None`: only where a person watches a terminal."""
    hidden = not sys.stderr.isatty() if show is None else not show
    return tqdm(total=total or None, disable=hidden, unit=f" {unit}", desc=what, dynamic_ncols=True, smoothing=0.1)
