"""An adapter's files, as PEFT writes them: what LoRA has learned of an encoder, see lora.py, without the encoder.

    adapter_config.json        base_model_name_or_path, r, lora_alpha, target_modules ..
    adapter_model.safetensors  base_model.model.<layer in the checkpoint>.lora_A.weight and .lora_B.weight; and the
                               modules_to_save, layers of a ClassificationHead that are trained whole

With modules.json and a tokenizer around them, they are a model whose encoder's own weights lie elsewhere."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from minist.checks import number, pick, whole
from minist.encoders.encoder import Encoder
from minist.encoders.families import ENCODERS
from minist.files import write_json
from minist.models.reading import read_table, read_weights, reading, write_weights
from minist.module import checked, finite, on_cpu
from minist.modules import lora
from minist.modules.classification_head import FORMS, default_labels, read_labels

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS: dict[str, Callable[[Path], Any]] = {
    WEIGHTS: load_file,
    "adapter_model.bin": partial(torch.load, map_location="cpu", weights_only=True),
}
OF_PEFT = "base_model.model."  # before every name
STARTS = {"True": "", "False": "", "gaussian": "", "eva": "", "orthogonal": ""}  # the others change the base's weights
# what makes more of it than B A; PEFT can merge it into the weights
OTHER = ["use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora", "layer_replication", "kasa_config"]
OTHER += ["target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "velora_config"]


class Adapter:
    """The files in `folder`, for an encoder of the family `model_type`. ValueError for what is no plain LoRA."""

    def __init__(self, folder: Path, model_type: str) -> None:
        self.folder, self.config = folder, read_table(folder / CONFIG)
        with reading(folder / CONFIG):
            pick("peft_type", self.config.get("peft_type"), {"LORA": ""})
            pick("init_lora_weights", str(self.config.get("init_lora_weights", True)), STARTS)
            pick("bias", self.config.get("bias") or "none", {"none": ""})
            for key in OTHER:
                pick(key, str(bool(self.config.get(key))), {"False": "as only plain LoRA is read"})
        self.prefix, weights = ENCODERS[model_type].prefix, read_weights(folder, KINDS)
        # a class with a head has the encoder under its prefix: its layers' names are those of the plain one
        self.places = {name.removeprefix(OF_PEFT).removeprefix(self.prefix): name for name in weights}
        self.weights = weights
        self.layers = {name[:-14] for name in self.places if name.endswith((".lora_A.weight", ".lora_B.weight"))}

    def change(self, layer: str, inputs: int, outputs: int) -> lora.LowRank:
        """That of a layer in the checkpoint, [T, inputs] -> [T, outputs]. ValueError for other shapes."""
        one = next(full for name, full in self.places.items() if name.startswith(f"{layer}.lora_"))  # A or B
        place = one.rpartition(".lora_")[0]
        config, name = self.config, place.removeprefix(OF_PEFT)
        with reading(self.folder / CONFIG):
            rank = whole("r", of_layer(config.get("rank_pattern"), name, config["r"]), 1)
            alpha = number("lora_alpha", of_layer(config.get("alpha_pattern"), name, config["lora_alpha"]))
            dropout = number("lora_dropout", config.get("lora_dropout") or 0.0, 0, 1)
            a = checked(self.weights, f"{place}.lora_A.weight", (rank, inputs))
            b = checked(self.weights, f"{place}.lora_B.weight", (outputs, rank))
        return lora.LowRank(a, b, alpha, bool(config.get("use_rslora")), dropout)

    def put_on(self, encoder: Encoder, base: Path, scores: bool) -> None:
        """ValueError names a weight that belongs to no layer of the encoder, nor of a head that `scores`."""
        sizes = {
            name: (layer.in_features, layer.out_features // len(names))
            for _, layer, names in lora.linear_layers(encoder)
            for name in names
        }
        layers = self.layers & sizes.keys()
        # a pooler may be adapted that no model here uses; ModernBERT calls layers of two kinds of heads the same
        of_head = {"pooler.dense", *(head_layers(encoder.model_type, self.prefix) if scores else ())}
        fits = {f"{layer}.lora_{x}.weight" for layer in layers | of_head for x in "AB"}
        fits |= {f"{layer}.{kind}" for layer in of_head for kind in ("weight", "bias")}
        for name in sorted(self.places.keys() - fits):
            what = f"the weight {self.places[name]} belongs to no linear layer of this {encoder.model_type}"
            raise ValueError(f"{self.folder}: {what}: give the model that the adapter was made for")
        lora.put_on(encoder, base, {name: self.change(name, *sizes[name]) for name in sizes if name in layers})

    @property
    def has_head(self) -> bool:
        return any(".lora_" not in name for name in self.places)


def of_layer(patterns: dict[str, Any] | None, name: str, otherwise: Any) -> Any:
    """A setting of the layer: of the first regular expression that fits the end of its name."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)


def head_layers(model_type: str, prefix: str) -> list[str]:
    names = FORMS[model_type].names.values() if model_type in FORMS else ()
    return [name.removeprefix(prefix) for name in names]


def adapted_head(base: Path, folder: Path, labels: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and weights of a ClassificationHead, the base's, but for what the adapter in `folder` has of it.
    `labels`: their names by number, if they are known."""
    config, weights = read_table(base / "config.json"), read_weights(base)
    adapter = Adapter(folder, pick("model_type of an adapted encoder", config.get("model_type"), ENCODERS).model_type)
    prefix, places = adapter.prefix, adapter.places
    state = {f"{prefix}{name}": weight for name, weight in weights.items()} | weights  # a plain one has no prefix
    for layer in FORMS[config["model_type"]].names.values():
        bare = layer.removeprefix(prefix)
        for kind in ("weight", "bias"):
            if f"{bare}.{kind}" in places:
                state[f"{layer}.{kind}"] = adapter.weights[places[f"{bare}.{kind}"]]
        if bare in adapter.layers:
            weight = finite(layer, state[f"{layer}.weight"])
            state[f"{layer}.weight"] = weight + adapter.change(bare, *weight.shape[::-1]).product()
    rows = len(state.get(f"{FORMS[config['model_type']].names['classifier']}.weight", ()))
    names = {str(i): name for i, name in enumerate(default_labels(rows or 1))}
    own = labels or (config.get("id2label") if len(read_labels(config)) == rows else names)
    return config | {"id2label": own}, state


def write_adapter(
    encoder: Encoder, base: tuple[str, str | None], prefix: str, head: dict[str, Tensor], folder: Path
) -> None:
    """`base` is its name and revision, `prefix` that of the encoder in the class that transformers opens, `head` what
    is trained of the weights of that class's head."""
    changes = lora.changes_of(encoder)
    first = next(iter(changes.values()))
    state: dict[str, Tensor] = {}
    for name, change in changes.items():
        state |= {f"{OF_PEFT}{prefix}{name}.lora_{x}.weight": on_cpu(w) for x, w in (("A", change.A), ("B", change.B))}
    state |= {f"{OF_PEFT}{name}": weight for name, weight in head.items()}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if head else None,
        "base_model_name_or_path": base[0],
        "revision": base[1],
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "use_rslora": first.rslora,
        "target_modules": lora.target_names(encoder, list(changes)),
        "rank_pattern": {name: change.rank for name, change in changes.items() if change.rank != first.rank},
        "alpha_pattern": {name: change.alpha for name, change in changes.items() if change.alpha != first.alpha},
        "modules_to_save": sorted({name.removeprefix(prefix).partition(".")[0] for name in head}) or None,
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / CONFIG, config)
    write_weights(state, folder, WEIGHTS)
