"""The modules of a model in their order, checked, and the whole pass of texts through them.

encoder [T, D] -> (WeightedLayerPooling) -> (Dense, Normalize) -> Pooling [N, D] -> (Dense, Normalize, LayerNorm, ..)
StaticEmbedding [N, D] -> (Dense, Normalize, LayerNorm, ..)

Which order is possible follows from what each module says that it takes and gives, see module.py. A Router may stand
at any place: then there are several such paths, one for each of its routes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from minist.data.packed import Packed
from minist.module import Module
from minist.modules.router import Router


class Stack(nn.ModuleList):
    """From texts to embeddings. `role`, such as "query" or None, picks a path; it says nothing where there is one."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """ValueError for an order or widths that do not fit together."""
        if len(routers_in(modules)) > 1:
            raise ValueError(
                f"the modules hold {len(routers_in(modules))} Routers: only one is possible, with longer routes"
            )
        widths = {}
        for route, path in paths_of(modules).items():
            try:
                check_order(path)
                widths[route] = check_widths(path)
            except ValueError as e:
                raise ValueError(str(e) if route is None else f"the route {route!r}: {e}") from None
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{route} {width}" for route, width in widths.items())
            raise ValueError(f"the routes give embeddings of different widths ({listed}): make them equal by a Dense")
        super().__init__(modules)

    @property
    def paths(self) -> dict[str | None, list[Module]]:
        """By route, all modules that a text goes through; without a Router one path, of the route None."""
        return paths_of(self)

    @property
    def router(self) -> Router | None:
        """The Router among the modules."""
        return next(iter(routers_in(self)), None)

    def route(self, role: str | None) -> str | None:
        """The route of texts of that role, None without a Router. ValueError for a role that it does not know."""
        router = self.router
        return router.route(role) if router else None

    def reader(self, role: str | None = None) -> Module:
        """The module that reads the texts of that role."""
        return self.paths[self.route(role)][0]

    @property
    def out_width(self) -> int:
        """Width of the embeddings, D."""
        return check_widths(next(iter(self.paths.values())))

    @property
    def num_layers(self) -> int:
        """Layers of the encoder; with routes of the one that has the fewest, 0 where one has none."""
        return min(path[0].num_layers for path in self.paths.values())

    def token_modules(self, role: str | None = None) -> list[Module]:
        """Encoder and what follows it up to the pooling; none where tokens have no vectors."""
        return before_pooling(self.paths[self.route(role)])

    def token_vectors(self, packed: Packed, role: str | None = None) -> Tensor:
        """What the pooling sees of each token: Packed -> [T, D]."""
        modules = self.token_modules(role)
        if not modules:
            raise ValueError(f"a {self.reader(role).name} knows no vector of a token in its text")
        return run(modules, packed)

    def forward(
        self, columns: Sequence[Packed], roles: Sequence[str | None] = (), outputs: Sequence[str] = ()
    ) -> list[tuple[Tensor, ...]]:
        """Embed several columns of texts: [N_c texts] -> ([N_c, D], ..) for each column c.

        `roles` gives the role of each column, none given is None for all. `outputs` are what a loss wants beside the
        embeddings, and stand behind them in each tuple, [N_c, ..], see `embed`. The columns may lie on the CPU; only
        what is ready to run is moved to the model's device. ValueError for a role that has no route.
        """
        roles = roles or [None] * len(columns)
        assert len(roles) == len(columns), "each column has a role"
        groups: dict[str | None, list[int]] = {}  # the columns of one route go through the model together
        for c, role in enumerate(roles):
            groups.setdefault(self.route(role), []).append(c)
        found: dict[int, tuple[Tensor, ...]] = {}
        for places in groups.values():
            embedded = self._one_pass([columns[c] for c in places], roles[places[0]], outputs)
            found |= zip(places, embedded, strict=True)
        return [found[c] for c in range(len(columns))]

    def _one_pass(
        self, columns: Sequence[Packed], role: str | None, outputs: Sequence[str]
    ) -> list[tuple[Tensor, ...]]:
        packed, device = Packed.cat(columns), next(self.parameters()).device
        order = packed.lengths.argsort(descending=True, stable=True)  # equal lengths side by side, see attention.py
        packed = packed.take(order).to(device)
        back, sizes = order.argsort().to(device), [column.n for column in columns]
        parts = [x[back].split(sizes) for x in self.embed(packed, role, outputs)]
        return list(zip(*parts, strict=True))

    def embed(self, packed: Packed, role: str | None = None, outputs: Sequence[str] = ()) -> tuple[Tensor, ...]:
        """Packed -> the embeddings [N, D], and after them each of `outputs`, [N, ..] too.

        "layer 3" is the embedding that the model would give if its encoder ended behind layer 3; layer 0 is what the
        encoder's layers start from. ValueError for an output that there is not.
        """
        path = self.paths[self.route(role)]
        if not outputs:
            return (run(path, packed),)
        if mixing := [module.name for module in path if "layers" in module.takes]:
            raise ValueError(f"{outputs[0]}: {mixing[0]} mixes the layers: no embedding is of one alone")
        kept = {f"layer {i}": x for i, x in enumerate(path[0].hidden_states(packed))}
        if unknown := [name for name in outputs if name not in kept]:
            raise ValueError(f"there is no output {unknown[0]!r}, known are {', '.join(kept)}")
        states = [next(reversed(kept.values())), *(kept[name] for name in outputs)]
        return tuple(behind_reader(path[1:], x, packed) for x in states)


def run(path: Sequence[Module], packed: Packed) -> Tensor:
    """What the last module of a path, or of its beginning, gives: [T, D] or [N, D]."""
    reader, rest = path[0], path[1:]
    if rest and "layers" in rest[0].takes:  # all of the encoder's layers, not just the last
        return behind_reader(rest[1:], rest[0](reader.hidden_states(packed)), packed)
    return behind_reader(rest, reader(packed), packed)


def behind_reader(modules: Sequence[Module], x: Tensor, packed: Packed) -> Tensor:
    """One module after the other."""
    for module in modules:
        x = module(x, packed) if module.pools else module(x)
    return x


def routers_in(modules: Iterable[nn.Module]) -> list[Router]:
    """Those of the modules that lead to several routes."""
    return [module for module in modules if isinstance(module, Router)]


def paths_of(modules: Iterable[Any]) -> dict[str | None, list[Module]]:
    """By route, all modules with those of the route in place of the Router; without one {None: modules}."""
    modules = list(modules)
    for router in routers_in(modules):
        place = modules.index(router)
        return {name: [*modules[:place], *router.modules_of(name), *modules[place + 1 :]] for name in router.routes}
    return {None: modules}


def before_pooling(path: Sequence[Module]) -> list[Module]:
    """Those of the modules that give tokens, or layers."""
    return [module for module, kind in zip(path, given_kinds(path), strict=True) if kind in ("layers", "tokens")]


def given_kinds(path: Sequence[Module]) -> list[str]:
    """What each module gives at its place: layers, tokens or embeddings. ValueError where it cannot stand there."""
    kinds = ["texts"]
    for module in path:
        # the tokens of an encoder are what its last layer gives
        taken = "tokens" if kinds[-1] == "layers" and "layers" not in module.takes else kinds[-1]
        if taken not in module.takes:
            raise ValueError(f"{module.name} takes {' or '.join(module.takes)}, and here it gets {taken}")
        kinds.append(module.gives or taken)
    return kinds[1:]


def check_order(path: Sequence[Module]) -> None:
    """ValueError unless the modules can follow one another, from texts to embeddings."""
    listed = " -> ".join(module.name for module in path) or "none"
    try:
        kinds = given_kinds(path)
    except ValueError as e:
        raise ValueError(f"the modules are {listed}: {e}") from None
    if kinds[-1:] != ["embeddings"]:
        raise ValueError(f"the modules are {listed}: they must end in embeddings, one of them must be a Pooling")


def check_widths(path: Sequence[Module]) -> int:
    """Width of what the last module gives. ValueError where one module gives another width than the next one takes."""
    width: int | None = None
    for module in path:
        if width is not None and module.in_width is not None and module.in_width != width:
            raise ValueError(f"{module.name} takes vectors of width {module.in_width}, but gets {width}")
        if "layers" in module.takes and module.num_layers != path[0].num_layers:
            raise ValueError(f"{module.name} is made for {module.num_layers} layers, not {path[0].num_layers}")
        width = width if module.out_width is None else module.out_width
    assert width is not None
    return width
