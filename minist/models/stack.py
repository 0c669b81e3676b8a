"""The modules of a model in their order, checked: encoder, what acts on tokens, pooling, what acts on texts.

encoder [T, D] -> (WeightedLayerPooling) -> (Dense, Normalize) -> Pooling [N, D] -> (Dense, Normalize, LayerNorm, ..)
StaticEmbedding [N, D] -> (Dense, Normalize, LayerNorm, ..)

A Router may stand at any place: then there are several such paths, one for each of its routes.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.families import Encoder
from minist.modules.dense import Dense, LayerNorm
from minist.modules.pooling import Pooling
from minist.modules.router import Router
from minist.modules.static_embedding import StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling


class Stack(nn.ModuleList):
    """From texts to embeddings. `role`, such as "query" or None, picks a path; it says nothing where there is one."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """ValueError for an order or widths that do not fit together."""
        check_routers(modules)
        for route, path in paths_of(modules).items():
            try:
                check_order(path)
                check_widths(path)
            except ValueError as e:
                raise ValueError(str(e) if route is None else f"the route {route!r}: {e}") from None
        check_same_width(paths_of(modules))
        super().__init__(modules)

    @property
    def paths(self) -> dict[str | None, list[nn.Module]]:
        """By route, all modules that a text goes through; without a Router one path, of the route None."""
        return paths_of(self)

    @property
    def router(self) -> Router | None:
        """The Router among the modules."""
        return find_router(self)

    def route(self, role: str | None) -> str | None:
        """The route of texts of that role, None without a Router. ValueError for a role that it does not know."""
        return self.router.route(role) if self.router else None

    @property
    def out_width(self) -> int:
        """Width of the embeddings, D."""
        return path_width(next(iter(self.paths.values())))

    def reader(self, role: str | None = None) -> nn.Module:
        """The module that reads the texts of that role."""
        return self.paths[self.route(role)][0]

    def token_modules(self, role: str | None = None) -> list[nn.Module]:
        """Encoder and what follows it up to the pooling; none where tokens have no vectors."""
        return before_pooling(self.paths[self.route(role)])

    def token_vectors(self, packed: Packed, role: str | None = None) -> Tensor:
        """What the pooling sees of each token: Packed -> [T, D]."""
        encoder, *rest = self.token_modules(role)
        assert isinstance(encoder, Encoder)
        if rest and isinstance(rest[0], WeightedLayerPooling):
            x = rest.pop(0)(encoder.hidden_states(packed))
        else:
            x = encoder(packed)
        for module in rest:
            x = module(x)
        return x

    def forward(self, packed: Packed, role: str | None = None, outputs: Sequence[str] = ()) -> tuple[Tensor, ...]:
        """Packed -> the embeddings [N, D], and after them each of `outputs`, [N, ..] too.

        "layer 3" is the embedding that the model would give if its encoder ended behind layer 3; layer 0 is what the
        encoder's layers start from.
        """
        path = self.paths[self.route(role)]
        first = len(before_pooling(path))
        if outputs:
            return tuple(behind_encoder(path, x, packed) for x in layer_states(path[0], packed, outputs))
        x = path[first](self.token_vectors(packed, role), packed) if first else path[0](packed)
        for module in path[first + 1 :]:
            x = module(x)
        return (x,)


def layer_states(encoder: nn.Module, packed: Packed, outputs: Sequence[str]) -> list[Tensor]:
    """The encoder's output and that of the layers asked for, [T, D] each. ValueError for one that there is not."""
    if not isinstance(encoder, Encoder):
        raise ValueError(f"{', '.join(outputs)}: a {type(encoder).__name__} has no layers")
    kept = {f"layer {i}": x for i, x in enumerate(encoder.hidden_states(packed))}
    if unknown := [name for name in outputs if name not in kept]:
        raise ValueError(f"there is no output {unknown[0]!r}, known are {', '.join(kept)}")
    return [x for name, x in kept.items() if name == f"layer {len(encoder.layers)}"] + [kept[name] for name in outputs]


def behind_encoder(path: Sequence[nn.Module], x: Tensor, packed: Packed) -> Tensor:
    """What the modules behind the encoder make of its output: [T, D] -> [N, D']."""
    for module in path[1:]:
        x = module(x, packed) if isinstance(module, Pooling) else module(x)
    return x


def find_router(modules: Iterable[nn.Module]) -> Router | None:
    """The Router among `modules`."""
    return next((module for module in modules if isinstance(module, Router)), None)


def paths_of(modules: Iterable[nn.Module]) -> dict[str | None, list[nn.Module]]:
    """By route, all modules with those of the route in place of the Router; without one {None: modules}."""
    modules = list(modules)
    router = find_router(modules)
    if router is None:
        return {None: modules}
    place = modules.index(router)
    return {name: [*modules[:place], *router.modules_of(name), *modules[place + 1 :]] for name in router.routes}


def before_pooling(path: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of the modules that act on tokens."""
    return list(takewhile(lambda module: not isinstance(module, Pooling | StaticEmbedding), path))


def check_routers(modules: Sequence[nn.Module]) -> None:
    """ValueError for more than one Router, be it inside another."""
    routers = [part for module in modules for part in module.modules() if isinstance(part, Router)]
    if len(routers) > 1:
        raise ValueError(f"the modules hold {len(routers)} Routers: only one is possible, with longer routes")


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


def check_same_width(paths: Mapping[str | None, Sequence[nn.Module]]) -> None:
    """ValueError unless the embeddings of all routes can be compared."""
    widths = {route: path_width(path) for route, path in paths.items()}
    if len(set(widths.values())) > 1:
        listing = ", ".join(f"{route} {width}" for route, width in widths.items())
        raise ValueError(f"the routes give embeddings of different widths ({listing}): add a Dense to make them equal")


def path_width(path: Sequence[nn.Module]) -> int:
    """Width of what the last module gives."""
    width = None
    for module in path:
        width = given_width(module, width)
    assert width is not None
    return width


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
