"""Text modules, [N, D] -> [N, D']: a linear layer with an activation, and scaling to length one."""

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.SiLU": nn.SiLU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
}


class Dense(nn.Module):
    """activation(W x + b)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "torch.nn.modules.activation.Tanh",
    ) -> None:
        """`activation` is spelled as in a saved config.json. ValueError for one that is not known."""
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"Dense: activation_function is {activation!r}, known are {', '.join(ACTIVATIONS)}")
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]()

    @property
    def out_width(self) -> int:
        """Width of the result."""
        return self.linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_features] -> [N, out_features]."""
        return self.activation(self.linear(x))


class Normalize(nn.Module):
    """x / |x|, so that the dot product of two embeddings is their cosine."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> [N, D], each row of length 1."""
        return F.normalize(x, dim=-1)
