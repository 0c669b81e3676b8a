"""What all encoders share: an architecture says its embeddings, its layers, and what its files call them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minist.checks import pick
from minist.data.packed import Packed
from minist.encoders.weights import load_weights, modernize, save_weights
from minist.module import Module, unfilled


class Encoder(Module):
    """Packed -> [T, D]. Its layers can be used one by one, dropped, or run a second time to save memory."""

    takes, gives = ("texts",), "layers"
    config_class: ClassVar[Any]  # the fields of its config.json
    model_type: ClassVar[str]  # in config.json
    prefix: ClassVar[str]  # of this encoder's weights inside a ..ForMaskedLM and its like
    weights: ClassVar[dict[str, str]]  # our modules -> theirs in a checkpoint, see weights.py
    layers_field: ClassVar[str] = "num_hidden_layers"
    needs_layer_0: ClassVar[bool] = False  # whether it is another kind of layer than the rest
    token_types: ClassVar[bool] = False  # whether it tells the two texts of a pair apart
    name = "Transformer"  # to files, any encoder is one
    checkpoint_layers = False  # while training, see run_layer
    in_int8 = False  # see modules/int8.py
    embeddings: Any  # Packed -> [T, D]; its `word` holds the words' vectors
    layers: nn.ModuleList

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        self.config, self.width, self.out_width = config, width, width

    @property
    def num_layers(self) -> int:  # type: ignore[override]
        return len(self.layers)

    @property
    def vocab_size(self) -> int:
        return len(self.embeddings.word.weight)  # and not the config's: a tokenizer may give any id that has a vector

    def forward(self, packed: Packed, kept: Tensor | None = None) -> Tensor:
        """[T, D]; or [M, D], of the tokens `kept` [M] alone, for which the last layer has less to do."""
        return deque(self.hidden_states(packed, kept), maxlen=1).pop()  # the last; none of the earlier is kept alive

    def hidden_states(self, packed: Packed, kept: Tensor | None = None, *more: object) -> Iterator[Tensor]:
        """The output of the embeddings, then of each layer: L + 1 times [T, D]; the last of `kept` alone, if given.
        `more` is what an architecture adds that its layers take beside the texts."""
        x = self.embeddings(packed)
        yield x
        for i, layer in enumerate(self.layers, 1):
            x = self.run_layer(layer, x, packed, kept if i == len(self.layers) else None, *more)
            yield x

    def run_layer(self, layer: nn.Module, x: Tensor, packed: Packed, *more: object) -> Tensor:
        """`layer(x, packed, ..)`, [T, D] -> [T, D]. With `checkpoint_layers` backward keeps just `x`, and runs it
        again with the same dropout: less memory, a third more time (Chen et al. 2016, arXiv:1604.06174)."""
        if self.checkpoint_layers and torch.is_grad_enabled():  # without gradients nothing is kept anyway
            return checkpoint(layer, x, packed, *more, use_reentrant=False, preserve_rng_state=True)
        return layer(x, packed, *more)

    def check_layers(self, numbers: Sequence[int]) -> None:
        """ValueError unless `numbers` are some of its layers, each once and in their order; the first is 0."""
        if self.adapter:  # and would be saved as one of all layers
            raise ValueError("keep_layers: the model has an adapter of all its layers: call merge_adapter() first")
        given, known = list(numbers), range(self.num_layers)
        if not given or given != sorted(set(given) & set(known)) or (self.needs_layer_0 and given[0] != 0):
            first = f", and a {self.model_type} must keep its layer 0" * self.needs_layer_0
            raise ValueError(f"keep_layers: given are {given}, allowed are rising numbers from 0 to {known[-1]}{first}")

    def keep_layers(self, numbers: Sequence[int]) -> None:
        self.check_layers(numbers)
        self.layers = nn.ModuleList(self.layers[i] for i in numbers)
        self.config = replace(self.config, **{self.layers_field: len(self.layers)})

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        architecture = type(self).__name__.replace("Encoder", "Model")  # transformers reads BertModel: our BertEncoder
        about: dict[str, Any] = {"architectures": [architecture], "model_type": self.model_type}
        shape = {key: value for key, value in asdict(self.config).items() if value is not None}
        return about | shape, {} if self.adapter else save_weights(self, self.weights)

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "Encoder":
        pick("is_decoder", str(config.get("is_decoder", False)), {"False": "every token sees all of its text"})
        known = {field.name: config[field.name] for field in fields(cls.config_class) if field.name in config}
        with unfilled():
            encoder = cls(cls.config_class(**known))  # type: ignore[call-arg]  # an architecture reads the width itself
        load_weights(encoder, modernize(weights, cls.prefix), cls.weights)
        return encoder
