"""An adapter's files, as PEFT writes them: what LoRA has learned of an encoder, see lora.py, without the encoder.

    adapter_config.json        base_model_name_or_path, r, lora_alpha, target_modules ..
    adapter_model.safetensors  base_model.model.<layer in the checkpoint>.lora_A.weight and .lora_B.weight; and the
                               modules_to_save, layers of a ClassificationHead that are trained whole

With modules.json and a tokenizer around them, they are a model whose encoder's own weights lie elsewhere."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from minist.checks import number, pick, whole
from minist.encoders.encoder import Encoder
from minist.encoders.families import ENCODERS
from minist.files import write_json
from minist.models.reading import KINDS as PLAIN_KINDS
from minist.models.reading import read_note, read_table, read_weights, reading, write_weights
from minist.models.stack import Stack
from minist.module import checked, finite, on_cpu
from minist.modules import lora
from minist.modules.classification_head import FORMS, read_labels

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = dict(zip((WEIGHTS, "adapter_model.bin"), PLAIN_KINDS.values(), strict=True))
OF_PEFT = "base_model.model."  # before every name
ENDS = ("lora_A.weight", "lora_B.weight")
PLAIN = {  # what settings say of a plain LoRA
    "peft_type": ["LORA"],
    "bias": ["none", "False"],
    "init_lora_weights": ["True", "False", "gaussian", "eva", "orthogonal"],  # others change the base's weights
}
MORE = "use_dora lora_bias fan_in_fan_out use_qalora use_bdlora layer_replication kasa_config target_parameters "
MORE += "trainable_token_indices alora_invocation_tokens arrow_config velora_config rank_pattern alpha_pattern"
PLAIN |= {key: ["False"] for key in MORE.split()}  # PEFT can merge an adapter with these into the weights


class Adapter:
    """The files in `folder`, for an encoder of the family `model_type`. ValueError for what is no plain LoRA."""

    def __init__(self, folder: Path, model_type: Any) -> None:
        self.folder, self.config = folder, read_table(folder / CONFIG)
        with reading(folder / CONFIG):
            for key, known in PLAIN.items():
                pick(key, str(self.config.get(key) or False), dict.fromkeys(known))
        self.prefix = pick("model_type of an adapted encoder", model_type, ENCODERS).prefix
        self.weights = {name.removeprefix(OF_PEFT): w for name, w in read_weights(folder, KINDS).items()}
        self.seal = read_note(folder / WEIGHTS)  # see seal_of
        # a class with a head has the encoder under its prefix: its layers' names are those of the plain one
        layers = {name.partition(".lora_")[0] for name in self.weights if name.endswith(ENDS)}
        self.layers = {name.removeprefix(self.prefix): name for name in layers}
        self.has_head = f"{FORMS[model_type].names['classifier']}.weight" in self.weights

    def change(self, layer: str, inputs: int, outputs: int) -> lora.LowRank:
        """That of a layer in the checkpoint, [T, inputs] -> [T, outputs]. ValueError for other shapes."""
        config, name = self.config, self.layers[layer]
        with reading(self.folder / CONFIG):
            rank, alpha = whole("r", config["r"], 1), number("lora_alpha", config["lora_alpha"])
            alpha *= math.sqrt(rank) if config.get("use_rslora") else 1  # its scale is alpha / sqrt(r)
            dropout = number("lora_dropout", config.get("lora_dropout") or 0.0, 0, 1)
            a = checked(self.weights, f"{name}.lora_A.weight", (rank, inputs))
            b = checked(self.weights, f"{name}.lora_B.weight", (outputs, rank))
        return lora.LowRank(a, b, alpha, dropout)

    def put_on(self, encoder: Encoder, base: Path, scores: bool) -> None:
        """ValueError names a weight that belongs to no layer of the encoder, nor of a head that `scores`."""
        sizes = lora.sizes_of(encoder)
        # a pooler may be adapted that no model here uses; ModernBERT calls layers of two kinds of heads the same
        names = FORMS[encoder.model_type].names.values() if scores else ()
        of_head = {"pooler.dense", *(name.removeprefix(self.prefix) for name in names)}
        known = {f"{layer}.{end}" for layer in of_head | sizes.keys() for end in ENDS}
        known |= {f"{layer}.{kind}" for layer in of_head for kind in ("weight", "bias")}
        for name in sorted(name for name in self.weights if name.removeprefix(self.prefix) not in known):
            what = f"the weight {OF_PEFT}{name} belongs to no linear layer of this {encoder.model_type}"
            raise ValueError(f"{self.folder}: {what}: give the model that the adapter was made for")
        if self.seal and self.seal != seal_of(encoder):
            warnings.warn(f"{self.folder} was trained on other weights than those of {base}", stacklevel=2)
        lora.put_on(encoder, base, {name: self.change(name, *sizes[name]) for name in sizes if name in self.layers})

    def head(
        self, config: dict[str, Any], weights: dict[str, Tensor], labels: Any
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and weights of a ClassificationHead, those of the base but for what is adapted. `labels`: their
        names by number, if they are known."""
        state: dict[str, Tensor] = {}
        for own in (weights, self.weights):
            state |= {f"{self.prefix}{name}": weight for name, weight in own.items()} | own  # a plain one has no prefix
        names = FORMS[config["model_type"]].names
        for layer in names.values():
            bare, place = layer.removeprefix(self.prefix), f"{layer}.weight"
            if bare in self.layers and place in state:
                weight = finite(place, state[place])
                state[place] = weight + self.change(bare, *weight.shape[::-1]).product()
        rows = len(state.get(f"{names['classifier']}.weight", ())) or 1
        known = config if len(read_labels(config)) == rows else {"num_labels": rows}
        return config | {"id2label": labels or dict(enumerate(read_labels(known)))}, state


def seal_of(encoder: Encoder) -> str:
    """A number of the encoder's own weights, to bfloat16: the same after any change of type."""
    found = 0
    for _, layer, _ in lora.linear_layers(encoder):
        found = crc32(on_cpu(layer.weight.bfloat16()).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def write_adapter(
    encoder: Encoder, base: tuple[str, str | None], prefix: str, head: dict[str, Tensor], folder: Path
) -> None:
    """`base` is its name and revision, `prefix` that of the encoder in the class that transformers opens, `head` what
    is trained of the weights of that class's head."""
    changes = lora.changes_of(encoder)
    first = next(iter(changes.values()))
    state = {f"{OF_PEFT}{name}": weight for name, weight in head.items()}
    for name, change in changes.items():
        place = f"{OF_PEFT}{prefix}{name}"
        state |= {f"{place}.{ENDS[0]}": on_cpu(change.A), f"{place}.{ENDS[1]}": on_cpu(change.B)}
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if head else None,
        "base_model_name_or_path": base[0],
        "revision": base[1],
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "target_modules": list(changes),
        "modules_to_save": sorted({name.removeprefix(prefix).partition(".")[0] for name in head}) or None,
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / CONFIG, config)
    write_weights(state, folder, WEIGHTS, note=seal_of(encoder))


class Adaptable(nn.Module):
    """A model of modules in a `stack`. With an adapter, neither an encoder nor a MaskedLMHead is trained or saved."""

    stack: Stack

    @property
    def encoders(self) -> list[Any]:  # one that routes share once
        return list(dict.fromkeys(path[0] for path in self.stack.paths.values() if path[0].num_layers))

    @property
    def is_adapted(self) -> bool:
        return any(encoder.adapter for encoder in self.encoders)

    def add_adapter(self, rank: int, alpha: float, *, dropout: float = 0.0, targets: Sequence[str] = ()) -> None:
        """Train a LoRA of the layers whose names in a checkpoint end in one of `targets`, such as "query" (none: of all
        linear layers of the encoder). ValueError for an encoder that is in no folder, to which the adapter could not
        be added again, or that has one."""
        self.refuse_int8("trained")
        for encoder in self.encoders:
            if encoder.adapter or not encoder.folder:
                raise ValueError("a new adapter needs a model that was opened, or saved and opened, and has none yet")
            changes = lora.new_changes(encoder, rank, alpha, dropout, targets)
            lora.put_on(encoder, encoder.folder, changes)
        self.freeze_adapted()

    @property
    def in_int8(self) -> bool:
        return any(encoder.in_int8 for encoder in self.encoders)  # see modules/int8.py

    def refuse_int8(self, what: str) -> None:
        if self.in_int8:
            raise ValueError(f'a model opened with dtype "int8" cannot be {what}: open it in float32 for that')

    def freeze_adapted(self) -> None:
        for path in self.stack.paths.values():
            for part in path if path[0].adapter else ():
                for name, parameter in part.named_parameters() if part.gives in ("layers", "words") else ():
                    parameter.requires_grad_(".lora." in name)

    def merge_adapter(self) -> None:
        """Add to the encoder's weights what the adapter has learned, W + scale B A: a plain model from here on."""
        if self.is_adapted:
            for encoder in self.encoders:
                lora.merge(encoder)
            self.requires_grad_(True)
