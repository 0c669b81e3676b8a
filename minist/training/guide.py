"""A guide or teacher: a second model, not trained, that embeds the training texts beside each step or once before."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minist import collectives, distributed
from minist.data.dataset import Dataset
from minist.data.text_column import TextColumn
from minist.files import complete_file
from minist.models.stack import Columns, Outputs, Roles
from minist.models.text_model import TextModel
from minist.progress import progress_bar

ROWS = 4096  # that are embedded at a time for the disk


class Guide:
    """The texts of one training set, as a guide sees them."""

    def __init__(self, model: TextModel, dataset: Dataset, roles: Roles) -> None:
        """`dataset` holds the same rows and columns as the training set, tokenized for `model`."""
        self.model, self.dataset, self.roles = model.eval(), dataset, roles
        self.cached: list[Tensor] = []  # per column [texts, D'], on disk

    def embed(self, rows: Tensor, share: Tensor) -> tuple[Tensor, ...]:
        """Embeddings of all `rows` of a batch, one [N, D'] per column; this rank embeds its `share` of them."""
        if self.cached:
            pairs = zip(self.cached, self.dataset.columns, strict=True)
            return tuple(kept[column.texts(rows)].to(self.model.device) for kept, column in pairs)
        own = embed_in_parts(self.model, self.dataset.take(share), self.roles)
        return tuple(collectives.gather(x) for (x,) in own)  # a loss of the whole batch takes all of them

    def keep_on_disk(self, folder: Path) -> None:
        """Embed every text once, into `folder`, unless it is done; from then on only read."""
        seal = hashlib.blake2b(digest_size=8)  # another model's embeddings have another name
        for weight in self.model.state_dict().values():
            seal.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        for name, column, role in zip(self.dataset.names, self.dataset.columns, self.roles, strict=True):
            file = folder / f"{name}.{seal.hexdigest()}.npy"
            distributed.prepare_once(file, partial(self._write, file, column, role))
            self.cached.append(torch.from_numpy(np.load(file, mmap_mode="c")))

    def _write(self, file: Path, column: TextColumn, role: str | None) -> None:
        with complete_file(file) as made, progress_bar(len(column), "texts", f"guide: {file.name}") as bar:
            out = np.lib.format.open_memmap(made, "w+", np.float32, (len(column), self.model.width))
            for rows in torch.arange(len(self.dataset)).split(ROWS):
                ((x,),) = embed_in_parts(self.model, [column.take(rows)], [role])
                out[column.texts(rows).numpy()] = x.cpu().numpy()
                bar.update(len(x))
            out.flush()


@torch.no_grad()
def embed_in_parts(model: TextModel, columns: Columns, roles: Roles, outputs: Sequence[str] = ()) -> list[Outputs]:
    """Embeddings [n, D] of each column, and `outputs`, without a graph, in the memory of a few texts."""
    found = []
    for column, role in zip(columns, roles, strict=True):
        parts = column.split(model.default_batch_tokens) or [column]  # without texts too there is a [0, D]
        pieces = zip(*(model([part], [role], outputs)[0] for part in parts), strict=True)
        found.append(tuple(torch.cat(piece).float() for piece in pieces))
    return found
