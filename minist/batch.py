"""What a loss may need beside the embeddings."""

from typing import NamedTuple

from torch import Tensor

from minist.data.packed import Packed


class Batch(NamedTuple):
    """One training batch: the columns of one rank; all else is of all ranks' rows, as are the embeddings of a loss."""

    columns: tuple[Packed, ...] = ()  # one per text column: anchor, positive, negative ..
    roles: tuple[str | None, ...] = ()  # per column that a model reads, not of targets: "query", "document" or None
    labels: Tensor | None = None  # [rows], [rows, k] or [rows, D]; lists of different length are filled up with NaN
    counts: tuple[Tensor | None, ...] = ()  # per column [rows]: texts in each row, where a cell is a list of texts
    guide: tuple[Tensor, ...] = ()  # embeddings by a guide or teacher model, one [N, D'] per column
    extra: dict[str, tuple[Tensor, ...]] = {}  # noqa: RUF012  what a loss asked for beside the embedding, per column
    progress: float = 1.0  # 0 to 1, for weights that rise while training
    step: int = 0  # with the seed, the source of any sampling inside a loss
