"""The modules of a model in their order, checked: encoder, what acts on tokens, pooling, what acts on texts.

encoder [T, D] -> (WeightedLayerPooling) -> (Dense, Normalize) -> Pooling [N, D] -> (Dense, Normalize, LayerNorm, ..)
StaticEmbedding [N, D] -> (Dense, Normalize, LayerNorm, ..)
"""

from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.families import Encoder
from minist.modules.dense import Dense, LayerNorm
from minist.modules.pooling import Pooling
from minist.modules.static_embedding import StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling


class Stack(nn.ModuleList):
    """From texts to embeddings."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """ValueError for an order or widths that do not fit together."""
        check_order(modules)
        check_widths(modules)
        super().__init__(modules)

    @property
    def out_width(self) -> int:
        """Width of the embeddings, D."""
        widths = [module.out_width for module in self if isinstance(module, Pooling | Dense | StaticEmbedding)]
        return widths[-1]

    @property
    def token_modules(self) -> list[nn.Module]:
        """Encoder and what follows it up to the pooling; none in a model without tokens' vectors."""
        return list(takewhile(lambda module: not isinstance(module, Pooling | StaticEmbedding), self))

    def token_vectors(self, packed: Packed) -> Tensor:
        """What the pooling sees of each token: Packed -> [T, D]."""
        encoder, *rest = self.token_modules
        assert isinstance(encoder, Encoder)
        if rest and isinstance(rest[0], WeightedLayerPooling):
            x = rest.pop(0)(encoder.hidden_states(packed))
        else:
            x = encoder(packed)
        for module in rest:
            x = module(x)
        return x

    def forward(self, packed: Packed) -> Tensor:
        """Packed -> [N, D]."""
        first = len(self.token_modules)
        x = self[first](self.token_vectors(packed), packed) if first else self[0](packed)
        for module in list(self)[first + 1 :]:
            x = module(x)
        return x


def check_order(modules: Sequence[nn.Module]) -> None:
    """ValueError unless the modules can follow one another."""
    names = [type(module).__name__ for module in modules]
    listing = " -> ".join(names)
    if not modules or not isinstance(modules[0], Encoder | StaticEmbedding):
        raise ValueError(f"the modules are {listing or 'none'}: the first must be an encoder or a StaticEmbedding")
    wanted = 0 if isinstance(modules[0], StaticEmbedding) else 1
    if names.count("Pooling") != wanted:
        raise ValueError(f"the modules are {listing}: behind {names[0]} there must be {wanted} Pooling")
    if "WeightedLayerPooling" in names[:1] + names[2:] or (not wanted and "WeightedLayerPooling" in names):
        raise ValueError(f"the modules are {listing}: WeightedLayerPooling must be the second, behind an encoder")
    if any(isinstance(module, Encoder | StaticEmbedding) for module in modules[1:]):
        raise ValueError(f"the modules are {listing}: only the first can read texts")
    if wanted and {"LayerNorm", "Dropout"} & set(names[: names.index("Pooling")]):
        raise ValueError(f"the modules are {listing}: LayerNorm and Dropout must stand behind the Pooling")


def check_widths(modules: Sequence[nn.Module]) -> None:
    """ValueError where one module gives another width than the next one takes."""
    width = None
    for module in modules:
        takes = taken_width(module)
        if width is not None and takes is not None and takes != width:
            raise ValueError(f"{type(module).__name__} takes vectors of width {takes}, but gets {width}")
        width = given_width(module, width)
    for module in modules[1:]:
        if isinstance(module, WeightedLayerPooling) and isinstance(modules[0], Encoder):
            layers = len(modules[0].layers)
            if module.num_layers != layers:
                raise ValueError(f"WeightedLayerPooling is made for {module.num_layers} layers, not {layers}")


def taken_width(module: nn.Module) -> int | None:
    """Width of the vectors that a module takes; None for any."""
    if isinstance(module, Dense):
        return module.linear.in_features
    if isinstance(module, LayerNorm):
        return module.norm.normalized_shape[0]
    return module.width if isinstance(module, Pooling | WeightedLayerPooling) else None


def given_width(module: nn.Module, width: int | None) -> int | None:
    """Width of the vectors that a module gives, if it gets `width`."""
    if isinstance(module, Encoder):
        return module.width
    return module.out_width if isinstance(module, Dense | Pooling | StaticEmbedding) else width
