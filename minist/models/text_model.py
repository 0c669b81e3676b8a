"""What models of texts share: a stack of modules, the tokenizers that feed it, prompts, and roles.

A role, "query" or "document" mostly, says what a text is. It picks a route, where the stack has a Router, and a prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minist.batch import Batch
from minist.data.packed import Packed
from minist.data.tokenizer import Tokenizer
from minist.diagnostics import describe_batch
from minist.encoders.families import Encoder
from minist.encoders.layers import check_layers
from minist.models.folder import Content
from minist.modules.weighted_layer_pooling import WeightedLayerPooling

ROLE_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}  # the first that is not empty


class TextModel(nn.Module):
    """Texts in, vectors out; what is done with them, a kind of model says for itself."""

    def assemble(self, content: Content) -> None:
        """Take the parts of a model folder."""
        self.stack = content.stack
        self.tokenizer, self.tokenizers = content.tokenizer, content.tokenizers
        self.prompts = {"query": "", "document": ""} | content.prompts
        self.default_prompt_name = content.default_prompt_name

    @property
    def routes(self) -> tuple[str, ...]:
        """The names of the routes; none without a Router."""
        return tuple(self.stack.router.routes) if self.stack.router else ()

    def tokenizer_for(self, role: str | None) -> Tokenizer:
        """The tokenizer of texts of that role. ValueError for a role that has no route."""
        route = self.stack.route(role)
        return self.tokenizer if route is None else self.tokenizers.get(route, self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The numbers that the weights are."""
        return next(self.parameters()).dtype

    @property
    def default_batch_tokens(self) -> int:
        """Tokens per forward pass when encoding: what a CPU's caches hold, or what keeps a GPU busy."""
        return 65536 if self.device.type == "cuda" else 2048

    @property
    def num_layers(self) -> int:
        """Layers of the encoder; with routes of the one that has the fewest, 0 where one has none."""
        return min(len(path[0].layers) if isinstance(path[0], Encoder) else 0 for path in self.stack.paths.values())

    def forward(
        self, columns: Sequence[Packed], roles: Sequence[str | None] = (), outputs: Sequence[str] = ()
    ) -> list[tuple[Tensor, ...]]:
        """Embed several columns of texts: [N_c texts] -> ([N_c, D],) for each column c.

        `roles` gives the role of each column, none given is None for all. Columns of one route go through the model
        together; without a Router that is all of them. They may lie on the CPU; only what is ready to run is moved to
        the model's device. `outputs` are what a loss wants beside the embeddings, and stand behind them in each
        tuple, [N_c, ..], see stack.py. ValueError for a role that has no route.
        """
        roles = roles or [None] * len(columns)
        assert len(roles) == len(columns), "each column has a role"
        found: dict[int, tuple[Tensor, ...]] = {}
        groups: dict[str | None, list[int]] = {}
        for c, role in enumerate(roles):
            groups.setdefault(self.stack.route(role), []).append(c)
        for places in groups.values():
            embedded = self._one_pass([columns[c] for c in places], roles[places[0]], outputs)
            found |= zip(places, embedded, strict=True)
        return [found[c] for c in range(len(columns))]

    def _one_pass(
        self, columns: Sequence[Packed], role: str | None, outputs: Sequence[str]
    ) -> list[tuple[Tensor, ...]]:
        """Columns of one route: [N_c texts] -> ([N_c, D], ..) for each."""
        packed = Packed.cat(columns)
        order = packed.lengths.argsort(descending=True, stable=True)  # equal lengths side by side, see attention.py
        packed = packed.take(order).to(self.device)
        back, sizes = order.argsort().to(self.device), [column.n for column in columns]
        parts = [x[back].split(sizes) for x in self.stack(packed, role, outputs)]
        return list(zip(*parts, strict=True))

    def arrange(
        self, columns: Sequence[Packed], roles: Sequence[str | None]
    ) -> tuple[Sequence[Packed], Sequence[str | None]]:
        """The columns as the forward pass takes them."""
        return columns, roles

    def describe(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, float]:
        """Figures to log of a batch."""
        return describe_batch(embeddings, batch.counts)

    @property
    def max_length(self) -> int:
        """Tokens at which texts are cut."""
        return self.tokenizer.max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        for tokenizer in (self.tokenizer, *self.tokenizers.values()):
            tokenizer.max_length = value
            tokenizer.backend.enable_truncation(value)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without dropout and gradients, and afterwards in the mode it was in."""
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            yield
        self.train(was_training)

    def find_prompt(self, prompt_name: str | None, prompt: str | None, role: str | None = None) -> str:
        """What goes before each text: `prompt`, else the one named, else the role's, else the default.

        ValueError lists the names that there are.
        """
        if prompt is not None:
            return prompt
        if prompt_name is None and role is not None:
            return self.role_prompt(role)
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is not None and name not in self.prompts:
            raise ValueError(f"the prompt name is {name!r}, this model has {', '.join(self.prompts)}")
        return "" if name is None else self.prompts[name]

    def role_prompt(self, role: str) -> str:
        """The prompt of a role: for "query" and "document" the first by a name that is used for it, for others the one
        of their name; empty where there is none. ValueError for a role that means nothing to this model."""
        known = dict.fromkeys([*ROLE_PROMPTS, *self.prompts])
        if not self.routes and role not in known:
            raise ValueError(f"the role is {role!r}, this model knows {', '.join(known)}")
        return next((self.prompts[name] for name in ROLE_PROMPTS.get(role, (role,)) if self.prompts.get(name)), "")

    # ------------------------------------------------------------ changed for training

    def keep_layers(self, numbers: Sequence[int]) -> None:
        """Keep only these layers of the encoder, or with routes of every encoder, the first is 0: a smaller model to
        distil, or to run as it is after AdaptiveLayerLoss. ValueError for layers that it has not."""
        encoders = [module for module in self.stack.modules() if isinstance(module, Encoder)]
        if not encoders or any(isinstance(module, WeightedLayerPooling) for module in self.stack.modules()):
            raise ValueError("keep_layers needs a model with an encoder, and without WeightedLayerPooling")
        for encoder in encoders:
            check_layers(numbers, len(encoder.layers))
        for encoder in encoders:
            encoder.keep_layers(numbers)

    def set_dropout(self, hidden: float | None, attention: float | None) -> None:
        """Change the probabilities for this training; None leaves one as the encoder's config says."""
        for name, part in self.named_modules():
            wanted = attention if name.endswith("attention_dropout") else hidden
            if isinstance(part, nn.Dropout) and wanted is not None:
                part.p = wanted
