"""Modules that act on each vector by itself, [.., D] -> [.., D']: mostly on text vectors, after the pooling."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import activation as activations

# as a saved config.json spells them; left out are those that need arguments or more than one vector
ACTIVATIONS: dict[str, type[nn.Module]] = {
    f"torch.nn.modules.activation.{name}": vars(activations)[name]
    for name in activations.__all__
    if name not in ("MultiheadAttention", "Threshold", "GLU", "Softmax2d")
} | {"torch.nn.modules.linear.Identity": nn.Identity}


class Dense(nn.Module):
    """activation(W x + b), and with `residual` that plus x, or plus R x where the widths differ."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "torch.nn.modules.activation.Tanh",
        residual: bool = False,
    ) -> None:
        """`activation` is spelled as in a saved config.json. ValueError for one that is not known."""
        super().__init__()
        if activation not in ACTIVATIONS:
            names = ", ".join(name.split(".")[-1] for name in ACTIVATIONS)
            raise ValueError(
                f"Dense: activation_function is {activation!r}, known are torch.nn.modules.linear.Identity and "
                f"torch.nn.modules.activation.<name> of {names}"
            )
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation_name = activation
        self.activation_function = ACTIVATIONS[activation]()  # PReLU's weight is saved under this name
        self.has_residual = residual
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    @property
    def out_width(self) -> int:
        """Width of the result."""
        return self.linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """[.., in_features] -> [.., out_features]."""
        out = self.activation_function(self.linear(x))
        if not self.has_residual:
            return out
        return out + (x if self.linear.in_features == self.linear.out_features else self.residual(x))


class Normalize(nn.Module):
    """x / |x|, so that the dot product of two embeddings is their cosine."""

    def forward(self, x: Tensor) -> Tensor:
        """[.., D] -> [.., D], each row of length 1."""
        return F.normalize(x, dim=-1)


class LayerNorm(nn.Module):
    """Each vector to mean 0 and variance 1, then scaled and shifted by dimension (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[.., D] -> [.., D]."""
        return self.norm(x)


class Dropout(nn.Module):
    """In training, each number is zero with probability `p`; nothing otherwise."""

    def __init__(self, p: float = 0.2) -> None:
        """ValueError unless `p` is a probability."""
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """[.., D] -> [.., D]."""
        return self.dropout(x)
