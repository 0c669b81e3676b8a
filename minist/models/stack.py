"""The modules of a model in their order, checked, and the whole pass of texts through them.

encoder [T, D] -> (WeightedLayerPooling) -> (Dense, Normalize) -> Pooling [N, D] -> (Dense, Normalize, LayerNorm, ..)
encoder [T, D] -> ClassificationHead [N, C]
encoder [T, D] -> MaskedLMHead (Words) -> (SpladePooling [N, V])
encoder [T, D] -> Pooling [N, D] -> SparseAutoEncoder [N, V]
SparseStaticEmbedding [N, V]
StaticEmbedding [N, D] -> (Dense, Normalize, LayerNorm, ..)

Which order is possible follows from what each module says that it takes and gives, see module.py. A Router may stand
at any place: then there are several such paths, one for each of its routes."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from minist.checks import pick
from minist.data.packed import Packed
from minist.module import ENDS, Module
from minist.modules.router import Router

Columns = Sequence[Packed]
Roles = Sequence[str | None]
Outputs = tuple[Tensor, ...]


class Stack(nn.ModuleList):
    """From texts to embeddings or scores. `role`, such as "query" or None, picks a path where there are several.
    ValueError for an order or widths that do not fit together."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        if (count := sum(isinstance(module, Router) for module in modules)) > 1:
            raise ValueError(f"the modules hold {count} Routers: only one is possible, with longer routes")
        widths = {}
        for route, path in self.paths.items():
            try:
                kinds, widths[route] = check_path(path)
                self.gives = kinds[-1]  # one of ENDS
            except ValueError as e:
                raise ValueError(str(e) if route is None else f"the route {route!r}: {e}") from None
            for module in path[1:]:
                module.attach(path[0])
        if len(set(widths.values())) > 1:  # their embeddings are compared with one another
            listed = ", ".join(f"{route} {width}" for route, width in widths.items())
            raise ValueError(f"the routes give embeddings of different widths ({listed}): make them equal by a Dense")

    @property
    def router(self) -> Router | None:
        return next((module for module in self if isinstance(module, Router)), None)

    @property
    def paths(self) -> dict[str | None, list[Module]]:
        """By route, all modules that a text goes through; without a Router one path, of the route None."""
        modules, router = list[Any](self), self.router
        if router is None:
            return {None: modules}
        place = modules.index(router)
        return {name: [*modules[:place], *router.modules_of(name), *modules[place + 1 :]] for name in router.routes}

    def route(self, role: str | None) -> str | None:
        """The route of texts of that role, None without a Router. ValueError for a role that it does not know."""
        return self.router.route(role) if self.router else None

    def reader(self, role: str | None = None) -> Module:
        return self.paths[self.route(role)][0]

    @property
    def out_width(self) -> int:
        return check_path(next(iter(self.paths.values())))[1]  # looked up again: keep_layers and append change modules

    @property
    def num_layers(self) -> int:
        return min(path[0].num_layers for path in self.paths.values())  # of routes the fewest: 0 without an encoder

    def token_vectors(self, packed: Packed, role: str | None = None) -> Tensor:
        if modules := before_pooling(self.paths[self.route(role)]):
            return run(modules, packed)  # [T, D], what the pooling sees of each token
        raise ValueError(f"a {self.reader(role).name} knows no vector of a token in its text")

    def forward(self, columns: Columns, roles: Roles = (), outputs: Sequence[str] = ()) -> list[Outputs]:
        """Embed several columns of texts: [N_c texts] -> ([N_c, D], ..) for each column c. They may lie on the CPU.
        `roles` has the role of each column, () is None for all. `outputs` are what a loss wants beside the embeddings,
        and stand behind them in each tuple, [N_c, ..], see `embed`."""
        roles = roles or [None] * len(columns)
        groups: dict[str | None, list[int]] = {}  # the columns of one route go through the model together
        for c, role in zip(range(len(columns)), roles, strict=True):
            groups.setdefault(self.route(role), []).append(c)
        found: dict[int, Outputs] = {}
        for places in groups.values():
            packed, device = Packed.cat([columns[c] for c in places]), next(self.parameters()).device
            order = packed.lengths.argsort(descending=True, stable=True)  # equal lengths side by side: rectangles.py
            embedded = self.embed(packed.take(order).to(device), roles[places[0]], outputs)
            back = order.argsort().to(device)  # the inverse of a permutation: row i of the columns is row back[i]
            parts = [x[back].split([columns[c].n for c in places]) for x in embedded]
            found |= zip(places, zip(*parts, strict=True), strict=True)  # by output -> by column
        return [found[c] for c in range(len(columns))]

    def within(self, work: Callable[[], Tensor]) -> Tensor:
        """`work()`, which uses the modules in its own way: weights in shares are gathered for it as for `forward`."""
        return work()

    def embed(self, packed: Packed, role: str | None = None, outputs: Sequence[str] = ()) -> Outputs:
        """Packed -> the embeddings [N, D], and after them each of `outputs`, [N, ..] too. "layer 3" is what the model
        would give if its encoder ended behind layer 3, layer 0 what its layers start from; others are what the last
        module offers. ValueError for one that there is not."""
        path = self.paths[self.route(role)]
        if not outputs:
            return (run(path, packed),)  # keeps no layer alive but the last
        if path[-1].offers:
            embeddings, beside = path[-1].beside(run(path[:-1], packed))
            return (embeddings, *(pick("the output", name, beside) for name in outputs))
        if mixing := [module.name for module in path if "layers" in module.takes]:
            raise ValueError(f"{outputs[0]}: {mixing[0]} mixes the layers: no embedding is of one alone")
        states = {f"layer {i}": x for i, x in enumerate(path[0].hidden_states(packed))}
        wanted = [[*states.values()][-1], *(pick("the output", name, states) for name in outputs)]  # its own first
        return tuple(behind_reader(path[1:], x, packed) for x in wanted)

    def after_step(self, embeddings: Sequence[Tensor], roles: Roles = ()) -> None:
        """Tell the last modules what they gave in a training step, of all ranks' texts in each column."""
        given: dict[Module, list[Tensor]] = {}
        for x, role in zip(embeddings, roles or [None] * len(embeddings), strict=True):
            given.setdefault(self.paths[self.route(role)][-1], []).append(x.detach())
        for module, columns in given.items():
            module.after_step(columns)


def run(path: Sequence[Module], packed: Packed) -> Tensor:
    """What the last module of a path, or of its beginning, gives: [T, D] or [N, D]."""
    reader, *rest = path
    if rest and "layers" in rest[0].takes:  # all of the encoder's layers, not just the last
        return behind_reader(rest[1:], rest[0](reader.hidden_states(packed)), packed)
    if rest and rest[0].first_only:  # an eighth less work in 6 layers: the last needs no others after its attention
        at, firsts = packed.firsts()
        return behind_reader(rest, reader(packed, at), firsts)
    return behind_reader(rest, reader(packed), packed)


def behind_reader(modules: Sequence[Module], x: Tensor, packed: Packed) -> Tensor:
    for module in modules:
        x = module(x, packed) if module.pools else module(x)  # only a pooling must know where texts begin and end
    return x


def before_pooling(path: Sequence[Module]) -> list[Module]:
    """Encoder and what follows it up to the pooling; none where tokens have no vectors."""
    return [module for module, kind in zip(path, check_path(path)[0], strict=True) if kind in ("layers", "tokens")]


def check_path(path: Sequence[Module]) -> tuple[list[str], int]:
    """What each module gives at its place, such as tokens or embeddings, and the width of what the last one gives.
    ValueError where a module cannot stand at its place."""
    kinds, width, listed = ["texts"], 0, "the modules are " + (" -> ".join(module.name for module in path) or "none")
    for module in path:
        # the tokens of an encoder are what its last layer gives
        taken = "tokens" if kinds[-1] == "layers" and "layers" not in module.takes else kinds[-1]
        if taken not in module.takes:
            raise ValueError(f"{listed}: {module.name} takes {' or '.join(module.takes)}, and here it gets {taken}")
        if width and module.in_width not in (None, width):
            raise ValueError(f"{module.name} takes vectors of width {module.in_width}, but gets {width}")
        if "layers" in module.takes and module.num_layers != path[0].num_layers:
            raise ValueError(f"{module.name} is made for {module.num_layers} layers, not {path[0].num_layers}")
        kinds.append(module.gives or taken)  # "": each vector by itself
        width = module.out_width or width
    if kinds[-1] not in ENDS:
        raise ValueError(f"{listed}: they must end in {' or '.join(ENDS)}, which a Pooling or a head gives")
    return kinds[1:], width
