"""Weights in shares: of each parameter, its gradient and its optimizer state, a rank holds one W-th (FSDP2, in torch).

DDP keeps all of them on every rank, 16 bytes a parameter with AdamW in float32. Here ranks gather the weights of a
layer when it is used, forward and backward, and forget them afterwards; backward averages the gradients, and leaves
each rank those of its share (Rajbhandari et al. 2019, arXiv:1910.02054, stage 3; Zhao et al. 2023, arXiv:2304.11277).
So in training each pass through the model is a collective: all ranks must make as many, see step.py."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from minist.distributed import exchange, world_size


def shard(stack: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Leave this rank its share of `stack`, whose `layers` are gathered one by one, and all else of it together."""
    from torch.distributed.device_mesh import init_device_mesh  # these imports take a second, which other runs need not
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(stack.parameters()).device.type, (world_size(),))
    for part in (*layers, stack):
        fully_shard(part, mesh=mesh)
    register_fsdp_forward_method(stack, "within")
    warnings.filterwarnings("ignore", ".* returned a view tensor")  # which nobody here changes in place


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """All weights of a sharded model on each rank, for what is no step: ranks measure, and one saves, as they like.
    All ranks enter it together. Of gradients and optimizer state each keeps its share."""
    if not any(map(is_share, model.parameters())):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        for layer in parts[1:]:  # what the stack, the first, has beside layers is held from forward to backward
            layer.set_reshard_after_forward(True, recurse=False)


def is_share(x: Any) -> bool:
    return type(x).__name__ == "DTensor"  # by its name: the import takes a second


def gathered(x: Any) -> Any:
    """The whole of a tensor that is in shares, anything else as it is. All ranks call it together."""
    return exchange(x.full_tensor) if is_share(x) else x


def shared_like(parameter: Any, x: Any) -> Any:
    """This rank's share of `x`, which every rank has, if it holds a number for each of a parameter in shares."""
    if not is_share(parameter) or not isinstance(x, Tensor) or x.shape != parameter.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, parameter.device_mesh, parameter.placements, src_data_rank=None)
