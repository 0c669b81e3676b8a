"""What a model folder says of itself beside its modules: settings, and what of a cross-encoder each generation needs.

config_sentence_transformers.json  prompts, similarity, kind of model; in version 6 a cross-encoder's activation
sentence_bert_config.json          in version 6 whether the encoder has a ClassificationHead
config.json                        in version 5 both: its architecture, and `sentence_transformers.activation_fn`
"""

from pathlib import Path
from typing import Any

from minist.checks import number
from minist.models.reading import read_optional, reading
from minist.models.tokenizer_files import transformer_settings
from minist.modules.classification_head import ClassificationHead

SETTINGS = "config_sentence_transformers.json"
VERSION = "5.2.0"  # of sentence-transformers, whose format is written
TEXTS = ("default_prompt_name", "similarity_fn_name", "model_type", "activation_fn")  # settings that are a text
SCORES: dict[str, Any] = {  # what version 6 wants to know of an encoder with a ClassificationHead
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}


def load_settings(file: Path) -> dict[str, Any]:
    settings = read_optional(file)
    with reading(file):
        prompts = settings.get("prompts") or {}
        texts = {name: settings.get(name) for name in TEXTS} | {f"prompts.{name}": prompts[name] for name in prompts}
        for name, text in texts.items():
            if type(text) not in (str, type(None)):
                raise ValueError(f"{name} is {repr(text)[:60]}: it must be a text or null")
        if settings.get("truncate_dim") is not None:
            number("truncate_dim", settings["truncate_dim"], 1)
    return settings


def has_head(folder: Path) -> bool:
    """Whether an encoder's folder holds a ClassificationHead that is used: as version 6 says it, or a checkpoint."""
    task = transformer_settings(folder).get("transformer_task")
    names = read_optional(folder / "config.json").get("architectures") or [] if task is None else [f"{task}"]
    with reading(folder / "config.json"):
        return str(names[0]).endswith((ClassificationHead.within, "sequence-classification")) if names else False


def old_activation(folder: Path) -> Any:
    """What a CrossEncoder's config.json says of its activation: version 4 and 5, or before."""
    config = read_optional(folder / "config.json")
    with reading(folder / "config.json"):
        new = (config.get("sentence_transformers") or {}).get("activation_fn")
        return new or config.get("sbert_ce_default_activation_function")
