"""Writing a model folder, see folder.py, which sentence-transformers opens too, and transformers its encoder."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minist.files import write_json
from minist.models.adapter import write_adapter
from minist.models.folder import SETTINGS, VERSION, Content
from minist.models.hub import name_of
from minist.models.reading import write_weights
from minist.models.stack import before_pooling
from minist.models.tokenizer_files import save_tokenizer
from minist.module import Module
from minist.modules.router import Router
from minist.modules.splade import SpladePooling


def write_folder(content: Content, folder: Path) -> None:
    if content.stack.gives == "words":  # a plain checkpoint, with which models of all kinds may begin
        return _save_part(content.stack.reader(), folder, content)
    entries = []
    for i, module in enumerate(module for module in list[Any](content.stack) if not module.within):
        package, name = class_of(module, content)
        path = f"{i}_{name}" if i else ""  # the first in the root, where other libraries look for an encoder
        entries.append({"idx": i, "name": str(i), "path": path, "type": f"{package}.{name}"})
        (folder / path).mkdir(exist_ok=True)
        save = _save_router if module is content.stack.router else _save_part
        save(module, folder / path, content)
    settings = {"model_type": "SentenceTransformer"} | content.settings
    settings["__version__"] = {"sentence_transformers": VERSION, "pytorch": torch.__version__}  # whose format this is
    write_json(folder / SETTINGS, settings)
    write_json(folder / "modules.json", entries)


def class_of(module: Module, content: Content) -> tuple[str, str]:
    """Package and name of a module's class in version 5, which has one more for an encoder whose words are scored."""
    for before, after in (pair for path in content.stack.paths.values() for pair in pairwise(path)):
        if before is module and after.gives == "words":
            return SpladePooling.package, "MLMTransformer"
    return module.package, module.name


def _save_part(module: Any, folder: Path, content: Content) -> None:
    config, weights = module.to_folder()
    # beside a head, a class of transformers has the encoder under its prefix; an adapter has the trained head too
    prefix, trained = "", dict[str, Tensor]()
    paths = {route: path for route, path in content.stack.paths.items() if module in path}
    for head in (part for path in paths.values() for part in path[1:2] if part.within and module is path[0]):
        own, theirs = head.to_folder()
        config |= own | {"architectures": [type(module).__name__.replace("Encoder", head.within)]}  # BertForMaskedLM
        if head.gives == "scores":  # version 5 reads it here
            config["sentence_transformers"] = {"activation_fn": content.settings["activation_fn"], "version": VERSION}
        prefix, trained = module.prefix, theirs if head.gives == "scores" else {}
        weights = {f"{prefix}{name}": weight for name, weight in weights.items()} | theirs
    if not module.gives and any(module in before_pooling(path) for path in paths.values()):
        # which only the newer generation reads: without it, the module acts on the text's embedding
        config |= {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    if module.gives == "layers" and any("layers" in other.takes for path in paths.values() for other in path):
        config |= {"output_hidden_states": True}  # without it, the real library leaves WeightedLayerPooling out
    if config and not module.adapter:  # a config.json would say that the weights are here
        write_json(folder / "config.json", config)
    if module.adapter:
        write_adapter(module, name_of(module.adapter), prefix, trained, folder)
    elif weights:
        write_weights(weights, folder)
    for route, path in paths.items():
        if module is path[0]:
            save_tokenizer(content.tokenizers[route], folder, module, path[-1].gives)


def _save_router(router: Router, folder: Path, content: Content) -> None:
    """Write router_config.json, and the modules of all routes; a shared one has the name that its first gives it."""
    names: dict[Module, str] = {}
    routes = {route: [module for module in router.modules_of(route) if not module.within] for route in router.routes}
    for route, modules in routes.items():
        for i, module in enumerate(modules):
            names.setdefault(module, f"{route}_{i}_{class_of(module, content)[1]}")
    default = router.default_route
    parameters: dict[str, Any] = {"default_route": default, "allow_empty_key": default is not None}
    if router.mappings:  # version 5 would not open a model that has this key
        parameters["route_mappings"] = {str((role, "text")): route for role, route in router.mappings.items()}
    about = {
        "types": {name: "{0}.{1}.{1}".format(*class_of(module, content)) for module, name in names.items()},
        "structure": {route: [names[module] for module in modules] for route, modules in routes.items()},
        "parameters": parameters,
    }
    write_json(folder / "router_config.json", about)
    for module, name in names.items():
        (folder / name).mkdir()
        _save_part(module, folder / name, content)
