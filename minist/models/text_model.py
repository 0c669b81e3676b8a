"""What models of texts share: a stack of modules, the tokenizers that feed it, prompts, roles, the inference loop.

A role, "query" or "document" mostly, says what a text is. It picks a route, where the stack has a Router, and a prompt.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import pick, whole
from minist.data.packed import Packed
from minist.data.pairing import Pairing
from minist.data.tokenizer import Texts, Tokenizer, text_fault
from minist.diagnostics import describe_batch
from minist.encoders.encoder import Encoder
from minist.files import files_into
from minist.models.adapter import CONFIG, Adaptable
from minist.models.device import Device, Dtype, place
from minist.models.folder import Content, content_of
from minist.models.hub import name_of, open_content, push
from minist.models.model_card import Added, write_card
from minist.models.saving import write_folder
from minist.models.stack import Columns, Outputs, Roles, Stack
from minist.module import ENDS
from minist.modules.pooling import Pooling
from minist.progress import Update
from minist.similarity import similarity

CHUNK = 8192  # texts that are tokenized, and sorted by length, at a time
# the names that models use for the prompt of a role; the first that is not empty
ROLE_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
# names of sentence-transformers: one that is set would be an attribute that nobody reads; one thing has one name here
THEIRS = {
    "max_seq_length": "it is called max_length",
    "similarity_fn_name": "it is called similarity_name",
    "get_sentence_embedding_dimension": "it is called out_width",
    "save_pretrained": "it is called save",
    "encode_multi_process": "give encode several devices",
    "model_card_data": "save writes README.md, the model card, and leaves one that you have changed as it is",
}
T = TypeVar("T")


class TextModel(Adaptable):
    """Texts in, vectors out; a kind of model says what is done with them, and has a line in the table MODELS."""

    gives: ClassVar[str] = "embeddings"  # what its last module must give
    pooling: ClassVar[str] = "mean"  # of a new one, unless it is told another
    likeness: ClassVar[str] = "cosine"  # of what it gives, unless the folder says another
    example: ClassVar[str] = "some.txt --output some.npy"  # for encode.py
    pairing: Pairing | None = None  # how it joins the tokens of two texts; None: it takes texts one by one
    ranks_share = False  # whether all ranks encode the same texts together, each a part of them: in an evaluation

    def __init__(
        self, source: str | Path | Content, *, revision: str | None = None, token: str | None = None,
        device: Device = None, dtype: Dtype = None, keep_layers: Sequence[int] | None = None,
        truncate_dim: int | None = None, prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None, num_labels: int | None = None, adapter: str | Path | None = None,
    ) -> None:  # fmt: skip
        """Read a model folder, or the model of that name on the Hugging Face hub, see hub.py; or take parts in memory,
        which stay where and what they are unless told otherwise. `device` None takes the GPU if there is one; `dtype`
        None is float32, "auto" bfloat16 where that is fast, "int8" is for encoding on a CPU, see modules/int8.py.
        `keep_layers` keeps these layers, the first is 0; `truncate_dim` so many dimensions; `prompts` are added to the
        folder's; `num_labels` is a CrossEncoder's; `adapter` is the folder, or the name on the hub, of what LoRA has
        learned of this model, see adapter.py."""
        super().__init__()
        given = source if isinstance(source, Content) else open_content(source, revision, token, adapter)
        content = self.adapt(given, num_labels)
        self.stack, self.tokenizers, self.settings = content.stack, content.tokenizers, content.settings
        self.tokenizer = content.tokenizer
        self.activation_fn: nn.Module = nn.Identity()  # of what `forward` gives, for a user
        for encoder in self.encoders:
            for tokenizer in (self.tokenizers[route] for route, path in self.stack.paths.items() if path[0] is encoder):
                tokenizer.longest = min(tokenizer.longest, encoder.config.max_length)  # it has no more positions
        texts = {**(self.settings.get("prompts") or {}), **(prompts or {})}  # what the caller says goes first
        self.prompts = {"query": "", "document": ""} | {name: text or "" for name, text in texts.items()}
        self.default_prompt_name = default_prompt_name or self.settings.get("default_prompt_name")
        for name in [None, *self.prompts]:  # checked here, so that no training begins with a prompt that fails later
            self.find_prompt(name, None)
        self.similarity_name = self.settings.get("similarity_fn_name") or self.likeness
        similarity(self.similarity_name)  # is there such a one?
        self.truncate_dim = self.settings.get("truncate_dim") if truncate_dim is None else truncate_dim
        self.kept_dim(self.truncate_dim)
        if keep_layers is not None:
            self.keep_layers(keep_layers)
        self.freeze_adapted()
        self.eval()  # a training sets the mode itself
        if given is not source or device is not None or dtype is not None:  # parts in memory stay as they are
            place(self, device, dtype)

    @classmethod
    def adapt(cls, content: Content, num_labels: int | None = None) -> Content:
        """As it is; other kinds of models add the head that a plain checkpoint lacks. ValueError for what is none."""
        if num_labels is not None:
            raise ValueError(f"num_labels is {num_labels}, but a {cls.__name__} gives no scores: use a CrossEncoder")
        if (gives := content.stack.gives) != cls.gives:
            where = content.stack.reader().folder or "the model"
            raise ValueError(f"{where} gives {gives}, no {cls.gives}: open it with {ENDS[gives]}")
        return content

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], tokenizer: Tokenizer | Mapping[str, Tokenizer]) -> Self:
        """The model of these parts, in an order of stack.py; `tokenizer` is one for all texts, or one by route."""
        return cls(content_of(Stack(modules), tokenizer))

    @classmethod
    def from_encoder(cls, encoder: Encoder, tokenizer: Tokenizer, pooling: str) -> Self:
        return cls.from_modules([encoder, Pooling(encoder.width, (pooling,))], tokenizer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in THEIRS:
            raise ValueError(f"a model has no {name} here: {THEIRS[name]}")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:  # called for what is not there
        if name in THEIRS:
            raise AttributeError(f"a model has no {name} here: {THEIRS[name]}")
        return super().__getattr__(name)

    @property
    def width(self) -> int:
        return self.stack.out_width  # D, of what `forward` gives of a text

    @property
    def out_width(self) -> int:
        return self.kept_dim(None)  # of what a user gets

    def kept_dim(self, truncate_dim: int | None) -> int:
        """`truncate_dim`, else the model's own, else all."""
        chosen = self.truncate_dim if truncate_dim is None else truncate_dim
        return self.width if chosen is None else whole("truncate_dim", chosen, 1, self.width)

    @property
    def routes(self) -> tuple[str, ...]:
        return tuple(self.stack.router.routes) if self.stack.router else ()  # none without a Router

    def tokenizer_for(self, role: str | None) -> Tokenizer:
        return self.tokenizers[self.stack.route(role)]  # ValueError for a role that has no route

    @property
    def max_length(self) -> int:
        """Tokens at which texts are cut, special ones too; of the default route. Set for all, and saved."""
        return self.tokenizer.max_length

    @max_length.setter
    def max_length(self, length: int) -> None:
        for tokenizer in set(self.tokenizers.values()):
            tokenizer.max_length = length

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def default_batch_tokens(self) -> int:
        return 65536 if self.device.type == "cuda" else 2048  # what keeps a GPU busy, or what a CPU's caches hold

    def forward(self, columns: Columns, roles: Roles = (), outputs: Sequence[str] = ()) -> list[Outputs]:
        return self.stack(columns, roles, outputs)

    def name_labels(self, classes: list[str]) -> list[str]:
        return classes  # of training labels, in the order of their numbers: a model of scores may have its own

    def describe(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, float]:
        return describe_batch(embeddings, batch.counts)  # figures for the log

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without dropout and gradients; afterwards every module is in the mode that it was in."""
        in_training = [module for module in self.modules() if module.training]  # a user may have frozen some
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in in_training:
                module.training = True

    def rows(
        self, texts: Texts, prompt: str, role: str | None, batch_tokens: int, compute: Callable[..., T], done: Update
    ) -> Iterator[tuple[Tensor, list[T], int]]:
        """The inference loop. For each chunk of `texts`: the places [n] of its texts, the longest first; what `compute`
        made of its batches, each a Packed, in this order; and how many were cut. `batch_tokens` 0 is a good number."""
        for start in range(0, len(texts), CHUNK):
            packed, cut = self.read(texts[start : start + CHUNK], prompt, role)
            order = packed.lengths.argsort(descending=True, stable=True)  # the largest batch first: it sets the memory
            computed = []
            with self.inference():  # left before each yield: the mode is the thread's, and the caller's too
                for batch in packed.take(order).split(batch_tokens or self.default_batch_tokens):
                    computed.append(compute(batch))  # stays on the device, so that nothing waits for it here
                    done(batch.n)
            yield start + order, computed, cut

    def read(self, texts: Texts, prompt: str, role: str | None) -> tuple[Packed, int]:
        """The tokens of N texts, and how many texts were cut."""
        tokenizer = self.tokenizer_for(role)
        tokens = tokenizer(texts, prompt)
        # a pooling may leave the prompt's tokens out
        return tokens.packed(tokenizer.prompt_length(prompt)), int(tokens.was_cut.sum())

    def embed(self, texts: Texts, prompt: str, batch_tokens: int, done: Update, role: str | None) -> tuple[Tensor, int]:
        """What the model gives for `texts`, [N, D] in float32 on the CPU, and how many of them were cut."""
        embeddings, cut = torch.empty(len(texts), self.width), 0

        def compute(batch: Packed) -> Tensor:
            return self([batch], [role])[0][0].float()  # through forward, which a kind of model may have changed

        for places, parts, cut_here in self.rows(texts, prompt, role, batch_tokens, compute, done):
            embeddings[places] = torch.cat(parts).cpu()  # so the device holds the rows of one chunk
            cut += cut_here
        return embeddings, cut

    def find_prompt(self, prompt_name: str | None, prompt: str | None, role: str | None = None) -> str:
        """What goes before each text: `prompt`, else the one named, else the role's, else the default one."""
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if prompt is None and prompt_name is None and role is not None:
            prompt = self.role_prompt(role)
        elif prompt is None:
            prompt = "" if name is None else pick("the prompt name", name, self.prompts)
        if fault := text_fault(prompt, may_pair=False):
            raise ValueError(f"the prompt is {fault}")
        return prompt

    def role_prompt(self, role: str) -> str:
        """The prompt of a role, empty where it has none. ValueError for a role that means nothing to this model."""
        if not self.routes:
            pick("the role", role, dict.fromkeys([*ROLE_PROMPTS, *self.prompts]))
        return next((self.prompts[name] for name in ROLE_PROMPTS.get(role, (role,)) if self.prompts.get(name)), "")

    def keep_layers(self, numbers: Sequence[int]) -> None:
        """Keep only these layers of every encoder, the first is 0. ValueError for layers that it has not."""
        if not self.encoders or any("layers" in module.takes for path in self.stack.paths.values() for module in path):
            raise ValueError("keep_layers needs a model with an encoder, and without WeightedLayerPooling")
        for change in (Encoder.check_layers, Encoder.keep_layers):  # all are checked before the first is changed
            for encoder in self.encoders:
                change(encoder, numbers)

    def content(self) -> Content:
        own = {"model_type": type(self).__name__, "similarity_fn_name": self.similarity_name, "prompts": self.prompts}
        own |= {"default_prompt_name": self.default_prompt_name, "truncate_dim": self.truncate_dim}
        return Content(self.stack, self.tokenizers, self.settings | own)  # settings of others stay in the file

    def save(self, path: str | Path) -> None:
        """Write a model folder that sentence-transformers opens too, and its card. Files of other names stay."""
        if Path(path).is_file():
            raise ValueError(f"{path} is a file: name a folder to save the model into")
        self.refuse_int8("saved")
        with files_into(Path(path)) as partial:
            write_folder(self.content(), partial)
            for written in sorted({file.parent for file in partial.rglob("*")}):
                other = "config.json" if (written / CONFIG).exists() else CONFIG  # would be read with ours
                if (place := Path(path) / written.relative_to(partial) / other).exists():
                    raise ValueError(f"{place} is of another kind of model: name a folder to save the model into")
        write_card(self, Path(path))

    def push_to_hub(
        self, repo: str, *, private: bool = False, token: str | None = None, revision: str | None = None
    ) -> str:
        """Put the model into the repository "owner/name" of the Hugging Face hub; returns its address."""
        self.refuse_int8("pushed")
        for base in [encoder.adapter for encoder in self.encoders if encoder.adapter]:
            if name_of(base)[1] is None:
                raise ValueError(f"the adapter is of {base}, which only you have: push that first, or merge_adapter()")

        def save(folder: Path, name: str) -> None:
            self.save(folder)
            write_card(self, folder, lambda: Added(name))

        return push(save, repo, private=private, token=token, revision=revision)
