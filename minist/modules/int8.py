"""Linear layers in whole numbers of 8 bits, for inference on a CPU, whose registers hold four times as many of them.

An input x becomes a code from 0 to 255, the range that was seen in 255 steps; a weight w becomes a code from -127 to
127, with a step for each output. oneDNN sums the products of codes, and turns the sums back:

    x = step (code - zero)        y_n = step step_n sum_k (code_k - zero) code_nk + b_n

(Jacob et al. 2017, arXiv:1712.05877). A few columns of a transformer's activations are far wider than the rest, and the
steps grow with them. So columns and neurons are

    smoothed    column k is divided by c_k = sqrt(max |x_k| / max |w_k|) and its weights multiplied by it: both are then
                equally hard to write in 8 bits (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438)
    repeated    the widest columns stand 4 times in the product, each a quarter as wide. Rounded at 1/8, 3/8, 5/8 and
                7/8, the four sum to one code of 4 times as many steps: sum_j floor(a + (j + 1/2)/m) = round(m a)
    apart       a perceptron's widest neurons are computed in floats (as in LLM.int8, Dettmers et al. 2022,
                arXiv:2208.07339); the others never leave the codes between its two layers

The ranges come from texts of random tokens, when the model is opened."""

import random
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.data.packed import Packed
from minist.data.tokenizer import Tokenizer
from minist.encoders.bert import BertLayer
from minist.encoders.config import ACTIVATIONS
from minist.encoders.encoder import Encoder
from minist.modules.lora import linear_layers

WIDEST, COPIES = 8, 4  # columns that are repeated, or neurons that are computed apart; how often a column is there
Act = tuple[str, list[Any], str]  # as oneDNN calls it
NONE: Act = ("none", [], "")
LENGTHS, MARKS = (2, 5, 10, 30, 100) * 40, set(string.punctuation + string.digits)  # of the texts that ranges come from
FUSED: dict[Callable[[Tensor], Tensor], Act] = {  # which it does to the sums by itself
    ACTIVATIONS["gelu"]: ("gelu", [], "none"),
    ACTIVATIONS["gelu_new"]: ("gelu", [], "tanh"),
    ACTIVATIONS["gelu_pytorch_tanh"]: ("gelu", [], "tanh"),
    ACTIVATIONS["relu"]: ("relu", [], ""),
}


class Codes(NamedTuple):
    """What a code from 0 to 255 stands for: step (code - zero)."""

    step: float
    zero: int

    @staticmethod
    def between(low: float, high: float) -> "Codes":
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / 255 or 1.0
        return Codes(step, round(-low / step))


class Product(nn.Module):
    """Codes [T, in] times a weight [out, in]: uint8 -> [T, out]."""

    def __init__(self, weight: Tensor, given: Codes, largest: int) -> None:
        super().__init__()
        self.given = given
        self.steps = weight.abs().amax(1).clamp(min=1e-12) / largest  # [out]
        self.codes = (weight / self.steps[:, None]).round().to(torch.int8)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(self.codes, None)  # in the order that the kernel reads

    def forward(self, codes: Tensor, bias: Tensor | None, dtype: torch.dtype, gives: Codes, act: Act = NONE) -> Tensor:
        """act(y + b) as `dtype`; as codes `gives` if that is uint8."""
        weight = self.packed, self.steps, self.zeros
        return torch.ops.onednn.qlinear_pointwise(codes, *self.given, *weight, bias, *gives, dtype, *act)

    def add_to(self, total: Tensor, codes: Tensor) -> Tensor:
        """`total` [T, out] + y; in its place."""
        weight, floats = (self.packed, self.steps, self.zeros), Codes(1.0, 0)
        kernel = torch.ops.onednn.qlinear_pointwise.binary
        return kernel(codes, *self.given, *weight, total, None, *floats, total.dtype, *floats, "sum", 1.0, *NONE)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": None}  # which no other process could read

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.packed = torch.ops.onednn.qlinear_prepack(self.codes, None)


class Int8Linear(nn.Module):
    """A linear layer, [T, in] -> [T, out], both in floats."""

    def __init__(self, plain: nn.Linear, seen: Tensor, largest: int) -> None:
        """`seen` [2, in]: the least and the largest number of each column; `largest` code of a weight."""
        super().__init__()
        weight, width = plain.weight.detach().float(), seen.abs().amax(0)
        smooth = (width.clamp(min=1e-4) / weight.abs().amax(0).clamp(min=1e-4)).sqrt()
        wide = (width / smooth).topk(min(WIDEST, len(width))).indices
        self.repeated = wide.repeat(COPIES - 1)
        columns = torch.cat([torch.arange(len(width)), self.repeated])
        is_wide = torch.isin(columns, wide)
        divisor = smooth[columns] * torch.where(is_wide, COPIES, 1)
        low, high = (seen[:, columns] / divisor).aminmax()
        given = Codes.between(float(low), float(high))
        copy = torch.cat([torch.zeros(len(width)), torch.arange(1, COPIES).repeat_interleave(len(wide))])
        factor = 1 / (divisor * given.step)
        # what is behind the point will be cut off: a half more, and it is rounded
        offset = given.zero + torch.where(is_wide, (copy + 0.5) / COPIES, 0.5)
        sizes = [len(width), len(self.repeated)]
        self.factors, self.offsets = factor.split(sizes), offset.split(sizes)
        self.product = Product((weight * smooth)[:, columns], given, largest)
        self.bias = None if plain.bias is None else plain.bias.detach().float()

    def codes(self, x: Tensor) -> Tensor:
        x, sizes = x.float(), [len(offset) for offset in self.offsets]
        codes = torch.empty(len(x), sum(sizes), dtype=torch.int16)  # of floats, made thrice as fast as uint8
        parts = zip(self.offsets, (x, x.index_select(1, self.repeated)), self.factors, strict=True)
        for own, part in zip(codes.split(sizes, dim=1), parts, strict=True):
            own.copy_(torch.addcmul(*part).clamp_(0, 255))
        return codes.to(torch.uint8)

    def forward(self, x: Tensor) -> Any:
        return self.product(self.codes(x), self.bias, x.dtype, Codes(1.0, 0))


class Int8Up(Int8Linear):
    """The first layer of a perceptron and its activation, [T, D] -> codes [T, F] and the neurons apart, [T, A]."""

    def __init__(
        self, plain: nn.Linear, act: Callable[[Tensor], Tensor], seen: Tensor, inner: Tensor, largest: int
    ) -> None:
        """`inner` [2, F]: the least and the largest output of each neuron."""
        super().__init__(plain, seen, largest)
        low, high = inner
        self.apart = (high - low).topk(min(WIDEST, len(low) - 1)).indices
        rest = torch.ones(len(low), dtype=torch.bool).index_fill(0, self.apart, False)
        self.gives = Codes.between(float(low[rest].min()), float(high[rest].max()))
        self.act, self.fused = act, FUSED[act]
        self.apart_weight, self.apart_bias = (x.detach()[self.apart] for x in (plain.weight, plain.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.product(self.codes(x), self.bias, torch.uint8, self.gives, self.fused)
        return codes, self.act(F.linear(x, self.apart_weight.to(x.dtype), self.apart_bias.to(x.dtype)))


class Int8Down(nn.Module):
    """The second layer: what Int8Up gives -> [T, D]."""

    def __init__(self, plain: nn.Linear, up: Int8Up, largest: int) -> None:
        super().__init__()
        weight = plain.weight.detach().float()
        self.apart_weight, self.bias = weight[:, up.apart].T.contiguous(), plain.bias.detach()
        self.product = Product(weight.index_fill(1, up.apart, 0.0), up.gives, largest)

    def forward(self, inner: tuple[Tensor, Tensor]) -> Tensor:
        codes, apart = inner
        return self.product.add_to(torch.addmm(self.bias.to(apart), apart, self.apart_weight.to(apart)), codes)


@torch.inference_mode()
def replace_layers(encoder: Encoder, example: Packed, largest: int) -> None:
    """Replace the linear layers of an encoder, which is in float32 on the CPU. `example` shows the ranges of their
    inputs; `largest` code of a weight: 127, or 63 for CPUs that sum two products in 16 bits."""
    seen = ranges(encoder, example)
    for path, plain, _ in linear_layers(encoder):
        if not path.endswith((".up", ".down")):
            encoder.set_submodule(path, Int8Linear(plain, seen[path], largest))
    for i, layer in enumerate(encoder.layers):
        replace_perceptron(layer, seen[f"layers.{i}.up"], seen[f"layers.{i}.down"], largest)
    encoder.in_int8 = True


def replace_perceptron(layer: Any, seen: Tensor, inner: Tensor, largest: int) -> None:
    if isinstance(layer, BertLayer) and layer.act in FUSED:
        up = Int8Up(layer.up, layer.act, seen, inner, largest)
        layer.up, layer.act, layer.down = up, nn.Identity(), Int8Down(layer.down, up, largest)  # type: ignore[assignment]
    else:  # behind a gate, or a rarer activation, the input of `down` is too wide: it stays as it is
        layer.up = Int8Linear(layer.up, seen, largest)


def ranges(encoder: Encoder, example: Packed) -> dict[str, Tensor]:
    """Of each linear layer the least and the largest number in each column of its input, [2, in]."""
    seen: dict[str, Tensor] = {}

    def watch(path: str) -> Any:
        return lambda layer, inputs: seen.update({path: torch.stack([inputs[0].amin(0), inputs[0].amax(0)])})

    hooks = [layer.register_forward_pre_hook(watch(path)) for path, layer, _ in linear_layers(encoder)]
    encoder(example)
    for hook in hooks:
        hook.remove()
    return seen


def example_of(tokenizer: Tokenizer) -> Packed:
    """200 texts of 2 to 100 random tokens. A quarter are marks and digits, whose activations are the widest."""
    draw = random.Random(0)
    tokens = sorted((token.strip("\u2581\u0120"), i) for token, i in tokenizer.backend.get_vocab().items())
    words = [i for _, i in tokens if i not in tokenizer.special_ids]
    marks = [i for token, i in tokens if token in MARKS] or words
    texts = [[draw.choice(draw.choice((words, words, words, marks))) for _ in range(n)] for n in LENGTHS]
    return tokenizer(tokenizer.backend.decode_batch(texts)).packed()
