"""The head of a masked language model: which word could stand here? [T, D] -> Words, scores [T, V].

norm(act(dense(h))) . word + bias        bert, roberta, xlm-roberta, mpnet, distilbert, modernbert

The vector of a token is turned once more, and compared with the embeddings of all words: those that fit there score
high. So the matrix is the encoder's own, and only `dense`, `norm` and `bias` are new (Devlin et al. 2019,
arXiv:1810.04805). SPLADE makes a text's words of these scores, see splade.py, TSDAE writes texts by them, decoder.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from minist.checks import pick
from minist.encoders.config import activation
from minist.encoders.linear import Linear, activated
from minist.encoders.weights import load_weights, modernize, save_weights
from minist.module import Module, Words


class Form(NamedTuple):
    """What a family calls the layers in a checkpoint."""

    dense: str
    norm: str
    decoder: str  # its weight is the encoder's, unless config.json says otherwise
    biases: tuple[str, ...]  # of which layer; the first that is there, the last if the decoder's weight is its own too


BERT, TURN, LM = "cls.predictions", "cls.predictions.transform", "lm_head"
ROBERTA = Form(f"{LM}.dense", f"{LM}.layer_norm", f"{LM}.decoder", (LM, f"{LM}.decoder"))
FORMS = {
    "bert": Form(
        f"{BERT}.transform.dense", f"{BERT}.transform.LayerNorm", f"{BERT}.decoder", (BERT, f"{BERT}.decoder")
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mpnet": ROBERTA,
    "distilbert": Form("vocab_transform", "vocab_layer_norm", "vocab_projector", ("vocab_projector",)),
    "modernbert": Form("head.dense", "head.norm", "decoder", ("decoder",)),
}
# keys of config.json that say something of the head alone
OWN = ("tie_word_embeddings", "classifier_activation", "classifier_bias")


class MaskedLMHead(Module):
    """Scores of all words of the vocabulary for each token, not multiplied out."""

    takes, gives, within = ("tokens",), "words", "ForMaskedLM"

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is the encoder's config.json. ValueError for a family that has no such head."""
        super().__init__()
        kind = config.get("model_type")
        self.form = pick("model_type of a masked language model", kind, FORMS)
        self.config = {key: config[key] for key in OWN if key in config}
        modern, width = kind == "modernbert", int(config["dim"] if "dim" in config else config["hidden_size"])
        self.in_width, self.out_width = width, int(config["vocab_size"])
        name = "classifier_activation" if modern else "activation" if kind == "distilbert" else "hidden_act"
        # RoBERTa's and MPNet's heads know no other than gelu, whatever their encoders have
        self.act = activation("gelu" if self.form is ROBERTA else config.get(name, "gelu"), name)
        self.dense = Linear(width, width, bias=not modern or bool(config.get("classifier_bias", False)))
        eps = config.get("norm_eps" if modern else "layer_norm_eps", 1e-5 if modern else 1e-12)
        self.norm = nn.LayerNorm(width, eps=eps, bias=not modern or bool(config.get("norm_bias", False)))
        self.bias = nn.Parameter(torch.zeros(self.out_width))
        tied = config.get("tie_word_embeddings", True)
        self.biases = self.form.biases if tied else self.form.biases[::-1]
        self.decoder = None if tied else nn.Linear(width, self.out_width, bias=False)
        self.words: tuple[nn.Embedding, ...] = ()  # in a tuple: the encoder's weights are not among its own

    def attach(self, reader: Any) -> None:
        self.words = (reader.embeddings.word,)  # with which it compares

    def transform(self, x: Tensor) -> Tensor:
        """[T, D] -> [T, D], what is compared with the words."""
        return self.norm(activated(self.dense, self.act, x))

    def forward(self, x: Tensor) -> Words:
        return Words(self.transform(x), (self.decoder or self.words[0]).weight, self.bias)

    def names(self) -> dict[str, str]:
        """Our layers -> theirs in a checkpoint; "" has the bias."""
        names = {"dense": self.form.dense, "norm": self.form.norm, "": self.biases[0]}
        return names | ({"decoder": self.form.decoder} if self.decoder else {})

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return self.config, save_weights(self, self.names())

    @classmethod
    def arguments(cls, config: dict[str, Any]) -> tuple[Any, ...]:
        return (config,)

    def fill(self, weights: Mapping[str, Tensor]) -> Self:
        """Take all parameters from a checkpoint, as float32; the encoder's are in it too. ValueError as of Module."""
        names, state = self.names(), modernize(weights, "")
        places = [place for place in self.biases if f"{place}.bias" in state]
        state |= {f"{names['']}.bias": state[f"{place}.bias"] for place in places[:1]}
        if not self.decoder:
            state.pop(f"{self.form.decoder}.weight", None)  # the words' once more, as some files have them
        load_weights(self, {n: w for n, w in state.items() if n.rpartition(".")[0] in names.values()}, names)
        return self

    def is_in(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint with these weights has such a head."""
        return f"{self.form.dense}.weight" in weights
