"""What a loss may need beside the embeddings."""

from typing import NamedTuple

from torch import Tensor

from minist.data.packed import Packed


class Batch(NamedTuple):
    """One training batch; every field has a default, so a test can call a loss with `Batch()`."""

    columns: tuple[Packed, ...] = ()  # one per text column: anchor, positive, negative ..
    labels: Tensor | None = None  # [rows]
    step: int = 0  # with the seed, the source of any sampling inside a loss
