"""Router: several ways through a model, of which a text's role picks one.

Queries are short and must be answered at once, documents are embedded once and in advance: so a model can have a
fast route for the one, a StaticEmbedding for instance, and an encoder for the other, trained into one space.

at the start            Router({"query": [StaticEmbedding(..)], "document": [BertEncoder(..), Pooling(..)]}, "document")
behind a shared part    [BertEncoder(..), Pooling(..), Router({"query": [Dense(..)], "document": []}, "document")]"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from minist.checks import listing
from minist.module import Module

Routes = Mapping[str, Sequence[nn.Module]]  # name -> modules, none of them to pass a text on as it is
Mappings = Mapping[str | None, str]  # role -> route, where a role is not called as its route


class Router(Module):
    """Lists of modules by route. stack.py sends a text through one of them, so there is no `forward` here. The same
    module may stand in several routes: it is trained, and saved, as the one that it is."""

    def __init__(self, routes: Routes, default_route: str | None = None, mappings: Mappings | None = None) -> None:
        """`default_route` is for texts without a role; None: they must have one. The role None in `mappings` stands for
        all that are not named. ValueError for a name that cannot be, or is no route's."""
        super().__init__()
        taken = dir(nn.ModuleDict())  # a module is an attribute there, and would hide the method of its name
        for route in list(routes) or [""]:  # a part of names of folders and parameters; no route at all has none
            if not re.fullmatch(r"[\w -]+", route) or route in taken:
                allowed = "letters, digits, _ and -, and no attribute of torch's"
                raise ValueError(f"Router: a route cannot be called {route!r}: use {allowed}")
        self.mappings = dict(mappings or {})
        for name in [default_route, *self.mappings.values()]:
            if name is not None and name not in list(routes):  # a list: the name may be anything that a file holds
                raise ValueError(f"Router: there is no route {name!r}, the routes are {listing(routes)}")
        if any(isinstance(module, Router) for modules in routes.values() for module in modules):
            raise ValueError("Router: a route leads to another Router: only one is possible, with longer routes")
        self.routes = nn.ModuleDict({name: nn.ModuleList(modules) for name, modules in routes.items()})
        # all that comes here is text, and a route of that name is for it, whatever its role
        self.default_route = self.mappings.get(None) or ("text" if "text" in routes else default_route)

    def route(self, role: str | None) -> str:
        """The route of texts of that role. ValueError names the routes where there is none for it."""
        choices = [self.mappings.get(role), self.mappings.get(None), role, "text"]  # the first that is a route
        for name in [self.default_route] if role is None else choices:
            if name is not None and name in self.routes:
                return name
        roles = listing(dict.fromkeys(filter(None, [*self.mappings, *self.routes])))
        given = "no role is given, and the model has no default route" if role is None else f"the role is {role!r}"
        raise ValueError(f"{given}: give one of {roles}")

    def modules_of(self, route: str) -> list[Module]:
        modules: Any = self.routes[route]  # ModuleDict does not say that it holds lists
        return list(modules)
