"""The head of a cross-encoder: from one vector per token to one score per label, [T, D] -> [N, C].

bert          tanh(dense(h_0))                             -> dropout -> scores     (dense is BERT's "pooler")
roberta ..    tanh(dense(dropout(h_0)))                    -> dropout -> scores     (also xlm-roberta and mpnet)
distilbert    relu(dense(h_0))                             -> dropout -> scores
modernbert    norm(gelu(dense(h_0 or the mean of all h)))  -> dropout -> scores

h_0 is the vector of the first token, [CLS], which attention has filled with what both texts say."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minist.checks import listing, number, pick, whole
from minist.data.packed import Packed
from minist.encoders.config import activation
from minist.encoders.dropout import Dropout
from minist.encoders.weights import draw, load_weights, modernize, save_weights
from minist.module import Module, unfilled
from minist.modules.pooling import pool


class Form(NamedTuple):
    """How a family builds its head, and what a checkpoint calls the layers."""

    names: dict[str, str]  # our layers -> theirs; not every family has a norm
    act: Callable[[Tensor], Tensor] | None  # None: config.json names it
    dropout: tuple[str, ...]  # in config.json; the first that is there and not null
    drops_input: bool = False  # dropout before dense too


CLS = {"classifier": "classifier"}
POOLER = Form(CLS | {"dense": "bert.pooler.dense"}, torch.tanh, ("classifier_dropout", "hidden_dropout_prob"))
ROBERTA = Form({"dense": "classifier.dense", "classifier": "classifier.out_proj"}, torch.tanh, POOLER.dropout, True)
FORMS = {
    "bert": POOLER,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mpnet": ROBERTA._replace(dropout=("hidden_dropout_prob",)),
    "distilbert": Form(CLS | {"dense": "pre_classifier"}, torch.relu, ("seq_classif_dropout",)),
    "modernbert": Form(CLS | {"dense": "head.dense", "norm": "head.norm"}, None, ("classifier_dropout",)),
}
# keys of config.json that say something of the head alone
OWN = ("classifier_dropout", "seq_classif_dropout", "classifier_pooling", "classifier_activation", "classifier_bias")


class ClassificationHead(Module):
    """Scores of N texts, mostly pairs, for C labels; `labels` are their names."""

    takes, gives, within = ("tokens",), "scores", "ForSequenceClassification"

    def __init__(self, config: Mapping[str, Any], labels: Sequence[str]) -> None:
        """`config` is the encoder's config.json. ValueError for a family that has no such head."""
        super().__init__()
        self.form = pick("model_type of a classification head", config.get("model_type"), FORMS)
        self.config = {key: config[key] for key in OWN if key in config}
        width = self.in_width = int(config["dim"] if "dim" in config else config["hidden_size"])  # dim: DistilBERT's
        dropout = next((config[key] for key in self.form.dropout if config.get(key) is not None), 0.0)
        self.pooling = config.get("classifier_pooling", "cls")
        self.first_only = pick("classifier_pooling", self.pooling, {"cls": True, "mean": False})
        has_norm = "norm" in self.form.names
        bias = not has_norm or bool(config.get("classifier_bias", False))  # ModernBERT's layers have none
        self.dense = nn.Linear(width, width, bias=bias)
        self.act = self.form.act or activation(config.get("classifier_activation", "gelu"), "classifier_activation")
        eps, norm_bias = config.get("norm_eps", 1e-5), config.get("norm_bias", False)
        self.norm = nn.LayerNorm(width, eps=eps, bias=norm_bias) if has_norm else nn.Identity()
        self.dropout = Dropout(number("dropout of the classification head", dropout, 0, 1))
        self.set_labels(labels)

    def set_labels(self, labels: Sequence[str]) -> None:
        """A new last layer, with a score for each of these."""
        self.labels, self.out_width = list(labels), len(labels)
        self.classifier = nn.Linear(self.dense.out_features, len(labels))

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """[T, D] -> [N, C], logits."""
        if not len(x):  # no text: no scores, that still hang on the graph, so that backward runs
            return self.classifier(self.dense(x))
        x = pool(self.pooling, x, packed, torch.zeros_like(packed.prompt_lengths))
        x = self.dropout(x) if self.form.drops_input else x
        return self.classifier(self.dropout(self.norm(self.act(self.dense(x)))))

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        numbered = list(enumerate(self.labels))
        about = {"id2label": {str(i): name for i, name in numbered}, "label2id": {name: i for i, name in numbered}}
        return self.config | about, save_weights(self, self.form.names)

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "ClassificationHead":
        with unfilled():
            head = cls(config, read_labels(config))
        names = head.form.names
        own = {n: w for n, w in modernize(weights, "").items() if n.rpartition(".")[0] in names.values()}
        load_weights(head, own, names)
        return head

    def begin(self, weights: dict[str, Tensor], std: float) -> bool:
        """New weights, as BERT draws them. `dense` is that of `weights` if they have a pooler: returns whether."""
        draw(self, std)
        pooler = {f".{name}".partition(".pooler.dense.")[2]: weight for name, weight in modernize(weights, "").items()}
        found = self.form is POOLER and {"weight", "bias"} <= pooler.keys()
        if found:
            self.dense.load_state_dict({name: pooler[name].float() for name in ("weight", "bias")})
        return found


def read_labels(config: Mapping[str, Any]) -> list[str]:
    """The names of the labels 0, 1, .. in a config.json; transformers means two where nothing is said of them."""
    names = {int(i): str(name) for i, name in (config.get("id2label") or {}).items()}
    if sorted(names) != list(range(len(set(names.values())))):
        raise ValueError(f"id2label is {listing(names.values())} for {sorted(names)}: give 0, 1, 2 .. a name each")
    count = whole("num_labels", config.get("num_labels", len(names) or 2), 1, 10**6)
    return [names.get(i, f"LABEL_{i}") for i in range(len(names) or count)]


def default_labels(count: int) -> list[str]:
    """As transformers calls labels without names."""
    return read_labels({"num_labels": count})


NAMES = "Identity Sigmoid Tanh Softmax LogSigmoid Softplus Softsign ReLU LeakyReLU ReLU6 ELU GELU SiLU Hardtanh"
ACTIVATIONS = {name: vars(nn)[name] for name in NAMES.split()}


def find_activation(given: str | nn.Module) -> nn.Module:
    """The module itself; or the one of torch.nn of that name, as files write it: torch.nn.modules.activation.Sigmoid.
    ValueError for another: code that a folder names is not run."""
    if isinstance(given, nn.Module):
        return given
    name = str(given).rpartition(".")[2] if str(given).startswith("torch.nn.") else given
    return pick("activation_fn, a module of torch.nn or its name,", name, ACTIVATIONS)()
