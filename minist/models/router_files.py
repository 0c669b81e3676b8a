"""The folder of a Router: router_config.json names its routes, their modules, and the folder of each module.

{"types":      {"query_0_StaticEmbedding": "<class>", "document_0_Transformer": "<class>", "document_1_Pooling": ..},
 "structure":  {"query": ["query_0_StaticEmbedding"], "document": ["document_0_Transformer", "document_1_Pooling"]},
 "parameters": {"default_route": "document", "allow_empty_key": true}}

A module that several routes share has one folder, which each of them names. Up to version 4 the class was called Asym
and the file config.json; version 6 adds `route_mappings` to the parameters.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from minist.files import read_json, write_json
from minist.models.module_files import class_name, inside, reading
from minist.modules.router import Router

ROUTERS = ("Router", "Asym")


def router_file(folder: Path) -> Path:
    """Where the routes are named: router_config.json, or the config.json of an older one."""
    old = folder / "config.json"
    return old if old.exists() and not (folder / "router_config.json").exists() else folder / "router_config.json"


# ---------------------------------------------------------------- reading


def load_router(folder: Path, load: Callable[[str, Path, Path], nn.Module]) -> Router:
    """Read a Router; `load(class, folder, file that names them)` reads a module of it. ValueError for a broken file."""
    file = router_file(folder)
    with reading(file):
        content = read_json(file)
        structure = {route: list(names) for route, names in content["structure"].items()}
        types = {name: str(content["types"][name]) for names in structure.values() for name in names}
        parameters = dict(content.get("parameters") or {})
        default = parameters.get("default_route")
        if default is None and parameters.get("allow_empty_key", True):
            default = next(iter(structure), None)
        mappings = {str(key): str(route) for key, route in (parameters.get("route_mappings") or {}).items()}
    modules = {name: load(kind, inside(folder, name, file), file) for name, kind in types.items()}
    routes = {route: [modules[name] for name in names] for route, names in structure.items()}
    try:
        return Router(routes, default, read_mappings(mappings))
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from None


def read_mappings(entries: dict[str, str]) -> dict[str | None, str]:
    """Role -> route, of keys such as "('query', 'text')" and "(None, None)"; those of images and sounds are left out.

    ValueError for a key of another shape.
    """
    try:
        pairs = {ast.literal_eval(key): route for key, route in entries.items()}
        anything = {role: route for (role, modality), route in pairs.items() if modality is None}
        texts = {role: route for (role, modality), route in pairs.items() if modality == "text"}
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"route_mappings has the keys {', '.join(entries)}, not all like ('query', 'text')") from None
    return anything | texts


# ---------------------------------------------------------------- writing


def module_folders(router: Router) -> dict[nn.Module, str]:
    """The folder of each module, below that of the Router. A shared one has the name that its first route gives it."""
    folders: dict[nn.Module, str] = {}
    for route in router.routes:
        for i, module in enumerate(router.modules_of(route)):
            folders.setdefault(module, f"{route}_{i}_{class_name(module)}")
    return folders


def save_router(router: Router, folder: Path) -> None:
    """Write router_config.json. Its modules are to be written into `module_folders`."""
    folders = module_folders(router)
    names = {name: class_name(module) for module, name in folders.items()}
    parameters: dict[str, Any] = {
        "default_route": router.default_route,
        "allow_empty_key": router.default_route is not None,
    }
    if router.mappings:  # version 5 would not open a model that has this key
        parameters["route_mappings"] = {str((role, "text")): route for role, route in router.mappings.items()}
    content = {
        "types": {folder: f"sentence_transformers.models.{name}.{name}" for folder, name in names.items()},
        "structure": {route: [folders[module] for module in router.modules_of(route)] for route in router.routes},
        "parameters": parameters,
    }
    write_json(folder / "router_config.json", content)
