"""What a part of a model says of itself, so that the code around it need not ask which part it is.
    texts       Packed, what a tokenizer makes
    layers      the L + 1 hidden states of an encoder, [T, D] each
    tokens      [T, D], one vector per token
    embeddings  [N, D], one vector per text
    scores      [N, C], one number per text for each of C labels, before any activation
    words       Words, a score for each token and each word of the vocabulary
    sparse      [N, V], one weight per text and word, or other dimension, most of them 0
A part takes one of these and gives another, or the same: see Stack for how they follow one another."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minist.checks import listing
from minist.data.packed import Packed

# what a model may give, and the kind of model that does
ENDS = {"embeddings": "SentenceTransformer", "sparse": "SparseEncoder", "scores": "CrossEncoder", "words": "MaskedLM"}


class Words(NamedTuple):
    """Scores [T, V] that are not multiplied out, since they would be the largest tensor of all: token t gives the word
    v the score x[t] . weight[v] + bias[v]."""

    x: Tensor  # [T, D]
    weight: Tensor  # [V, D]
    bias: Tensor  # [V]


class Module(nn.Module):
    """A new part of a model derives from this, and stands in the table MODULES. `forward(packed)` where it takes
    texts, `forward(x, packed)` where it makes one vector of a text's tokens, and `forward(x)` otherwise."""

    takes: ClassVar[tuple[str, ...]] = ("embeddings",)
    gives: ClassVar[str] = ""  # "": what it takes, each vector by itself
    within: ClassVar[str] = ""  # "ForSequenceClassification": to files it is a part of the encoder, called so with it
    package: ClassVar[str] = "sentence_transformers.models"  # where version 5 has its class
    has_config: ClassVar[bool] = True  # whether its folder must hold a config.json
    has_weights: ClassVar[bool] = True  # and weights
    config_keys: ClassVar[Sequence[tuple[str, str]]] = ()  # in the constructor's order, each with its attribute
    offers: ClassVar[tuple[str, ...]] = ()  # what a loss may want to see beside what it gives: by name, a row each text
    beside: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]  # what it gives of x, and all that it `offers`
    first_only: bool = False  # whether it looks at the first token of each text alone
    in_width: int | None = None  # None: any
    out_width: int | None = None  # None: as it comes in
    special_tokens = True  # whether texts that it reads begin and end with those of its tokenizer
    num_layers = 0  # those of an encoder, or those that it wants of one
    folder: Any = None  # the Path from which it was read, if it was
    adapter: Any = None  # of an encoder with LoRA: the Path of the model whose weights it has, see lora.py

    @property
    def name(self) -> str:
        return type(self).__name__  # as files call its class

    @property
    def pools(self) -> bool:
        """Whether it makes one vector of a text's tokens, and so must know where a text begins and ends."""
        return self.gives in ENDS and self.gives != "words" and not {"tokens", "words"}.isdisjoint(self.takes)

    def attach(self, reader: "Module") -> None:
        """Called once with the module that reads the texts, for what shares weights with it."""

    def after_step(self, given: Sequence[Tensor]) -> None:
        """Called once in a training step, with what it gave of all ranks' texts in each column: for what counts steps,
        and would count a forward pass of each mini-batch, twice, otherwise."""

    def hidden_states(self, packed: Packed) -> Iterator[Tensor]:
        """What an encoder's layers give, one after the other; ValueError for anything else."""
        raise ValueError(f"a {self.name} has no layers whose outputs could be used")

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What its config.json holds, and its weights on the CPU."""
        config = {key: attrgetter(name)(self) for key, name in self.config_keys}
        return config, {name: on_cpu(parameter) for name, parameter in self.named_parameters()}

    @classmethod
    def arguments(cls, config: dict[str, Any]) -> tuple[Any, ...]:
        """Those of its constructor, out of a config.json: what is missing or wrong there is any error."""
        return tuple(config[key] for key, _ in cls.config_keys)

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "Module":
        with unfilled():
            module = cls(*cls.arguments(config))
        return module.fill(weights)  # the module of what to_folder gave

    def fill(self, weights: dict[str, Tensor]) -> Self:
        """Take all parameters from `weights`, as float32. ValueError names one that does not fit."""
        known = dict(self.named_parameters())
        for name in sorted(weights.keys() - known.keys()):
            raise WeightError(f"the weight {name} belongs to no {self.name} of this shape, which has {listing(known)}")
        filled = {name: checked(weights, name, tuple(parameter.shape)) for name, parameter in known.items()}
        self.load_state_dict(filled, assign=True)  # on the meta device there is no memory to copy to
        return self


class WeightError(ValueError):
    """The weights are wrong, whatever config.json says."""


def on_cpu(parameter: Tensor) -> Tensor:
    return parameter.detach().cpu().contiguous()  # to be written: safetensors takes no strides


def checked(weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """The weight of that name, see finite. ValueError where it is missing or of another shape."""
    given = list(weights[name].shape) if name in weights else "missing"
    if given != list(shape):
        raise WeightError(f"the weight {name} is {given}, by its config.json it has shape {list(shape)}")
    return finite(name, weights[name])


def finite(name: str, weight: Tensor) -> Tensor:
    """`weight` in float32. ValueError unless it holds numbers, all of them finite."""
    if not weight.is_floating_point():
        raise WeightError(f"the weight {name} is of type {str(weight.dtype).removeprefix('torch.')}, which is no float")
    weight = weight.float()
    # a sum is read at the speed of memory, and one number that is not finite makes it so; it may also be just large
    if not weight.sum().isfinite() and not weight.isfinite().all():
        raise WeightError(f"the weight {name} has numbers that are NaN or infinite")
    return weight


class _WithoutDrawing(TorchFunctionMode):
    # on the meta device drawing is free, but torch imports its compiler for it, which takes a second
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules made inside have shapes and no memory: `fill` gives them weights that were read."""
    with torch.device("meta"), _WithoutDrawing():
        yield
