"""SentenceTransformer: one embedding per text (Reimers and Gurevych 2019, arXiv:1908.10084).

texts -> tokenizer -> Packed -> encoder [T, D] -> pooling [N, D] -> text modules [N, D']
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.data.packed import Packed
from minist.data.tokenizer import Text, Tokenizer
from minist.models.folder import Content, load_folder, save_folder
from minist.modules.dense import Dense
from minist.modules.pooling import Pooling
from minist.progress import Update, progress_bar
from minist.similarity import pairwise_similarity, similarity

CHUNK = 8192  # texts that are tokenized, and sorted by length, at a time
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class SentenceTransformer(nn.Module):
    """A dense bi-encoder.

    model = SentenceTransformer("path/to/all-MiniLM-L6-v2")
    embeddings = model.encode(["a text", "another"])  # [2, 384]
    model.similarity(embeddings, embeddings)  # [2, 2]
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Read a model folder. `device` None takes the GPU if there is one, `dtype` None is float32;
        `truncate_dim` keeps the first dimensions of each embedding (None: as the folder says).
        ValueError for a folder that is no model, and for settings that cannot be."""
        super().__init__()
        content = load_folder(Path(name_or_path))
        self._assemble(content)
        self.truncate_dim = content.truncate_dim if truncate_dim is None else self._checked_dim(truncate_dim)
        self.to(device=_device(device), dtype=_dtype(dtype))
        self.eval()

    def _assemble(self, content: Content) -> None:
        self.stack = nn.ModuleList(content.modules)
        self.tokenizer = content.tokenizer
        self.prompts = {"query": "", "document": ""} | content.prompts
        self.default_prompt_name = content.default_prompt_name
        self.similarity_name = content.similarity
        self.truncate_dim = content.truncate_dim

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], tokenizer: Tokenizer) -> "SentenceTransformer":
        """A model of the given parts: an encoder, a Pooling, then any text modules."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._assemble(Content(list(modules), tokenizer))
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def default_batch_tokens(self) -> int:
        """Tokens per forward pass when encoding: what a CPU's caches hold, or what keeps a GPU busy."""
        return 65536 if self.device.type == "cuda" else 2048

    @property
    def width(self) -> int:
        """Dimensions of an embedding, D, before `truncate_dim`."""
        widths = [module.out_width for module in self.stack if isinstance(module, Pooling | Dense)]
        return widths[-1]

    @property
    def out_width(self) -> int:
        """Dimensions of what `encode` returns."""
        return self.width if self.truncate_dim is None else self.truncate_dim

    def forward(self, columns: Sequence[Packed]) -> list[Tensor]:
        """Embed several columns of texts in one pass: [N_c texts] -> [N_c, D] for each column c.

        The columns may lie on the CPU; only what is ready to run is moved to the model's device.
        """
        packed = Packed.cat(columns)
        order = packed.lengths.argsort(descending=True, stable=True)  # equal lengths side by side, see attention.py
        packed = packed.take(order).to(self.device)
        x = self.stack[0](packed)
        for module in self.stack[1:]:
            x = module(x, packed) if isinstance(module, Pooling) else module(x)
        return list(x[order.argsort().to(x.device)].split([column.n for column in columns]))

    def set_dropout(self, hidden: float | None, attention: float | None) -> None:
        """Change the probabilities for this training; None leaves one as the encoder's config says."""
        for name, part in self.named_modules():
            wanted = attention if name.endswith("attention_dropout") else hidden
            if isinstance(part, nn.Dropout) and wanted is not None:
                part.p = wanted

    # ------------------------------------------------------------ encoding

    def encode(
        self,
        texts: str | Sequence[Text],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_tokens: int = 0,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor:
        """Embeddings [N, D] of `texts` in float32; of a single string [D].

        `prompt`, or the model's own of that name, is put before each text. Texts are cut at
        `tokenizer.max_length` tokens. `truncate_dim` keeps the first dimensions, then
        `normalize_embeddings` scales to length one. `batch_tokens` bounds the memory and does not
        change the result; 0 is a good number for the device. `convert_to_tensor` leaves the result on
        that device.
        """
        prefix = self.find_prompt(prompt_name, prompt)
        many = [texts] if isinstance(texts, str) else texts
        chunks = [torch.zeros(0, self.width, device=self.device)]
        with progress_bar(len(many), "texts", "encoding", show_progress_bar) as bar:
            for start in range(0, len(many), CHUNK):
                chunks.append(self.embed(many[start : start + CHUNK], prefix, batch_tokens, bar.update)[0])
        result = self.finish(torch.cat(chunks), truncate_dim, normalize_embeddings)
        result = result[0] if isinstance(texts, str) else result
        return result if convert_to_tensor else result.cpu().numpy()

    def encode_query(
        self,
        texts: str | Sequence[Text],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_tokens: int = 0,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor:
        """`encode` with the model's query prompt, unless another is given."""
        return self.encode(
            texts,
            prompt_name=prompt_name,
            prompt=self.role_prompt("query") if prompt is None and prompt_name is None else prompt,
            batch_tokens=batch_tokens,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            convert_to_tensor=convert_to_tensor,
            show_progress_bar=show_progress_bar,
        )

    def encode_document(
        self,
        texts: str | Sequence[Text],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_tokens: int = 0,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor:
        """`encode` with the model's document prompt, unless another is given."""
        return self.encode(
            texts,
            prompt_name=prompt_name,
            prompt=self.role_prompt("document") if prompt is None and prompt_name is None else prompt,
            batch_tokens=batch_tokens,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            convert_to_tensor=convert_to_tensor,
            show_progress_bar=show_progress_bar,
        )

    def find_prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        """What goes before each text: `prompt`, else the one named, else the default. ValueError lists the names."""
        name = prompt_name if prompt_name is not None else self.default_prompt_name
        if prompt is not None:
            return prompt
        if name is not None and name not in self.prompts:
            raise ValueError(f"the prompt name is {name!r}, this model has {', '.join(self.prompts)}")
        return "" if name is None else self.prompts[name]

    def role_prompt(self, role: str) -> str:
        """The prompt for a "query" or "document"; empty unless the model's folder names one."""
        return self.prompts[role]

    def embed(self, texts: Sequence[Text], prompt: str, batch_tokens: int, done: Update) -> tuple[Tensor, int]:
        """What the model gives for `texts`, [N, D] in float32 on its device, and how many of them were cut."""
        tokens = self.tokenizer(texts, prompt)
        packed = tokens.packed(self.tokenizer.prompt_length(prompt))
        order = packed.lengths.argsort(descending=True, stable=True)  # the largest batch first: it sets the memory
        outputs = []
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            for batch in packed.take(order).split(batch_tokens or self.default_batch_tokens):
                outputs += [x.float() for x in self([batch])]
                done(batch.n)
        self.train(was_training)
        return torch.cat(outputs)[order.argsort().to(self.device)], int(tokens.was_cut.sum())

    def finish(self, embeddings: Tensor, truncate_dim: int | None, normalize: bool) -> Tensor:
        """Keep the first dimensions, then scale to length one: [N, D] -> [N, truncate_dim]."""
        kept = embeddings[:, : self.out_width if truncate_dim is None else self._checked_dim(truncate_dim)]
        return F.normalize(kept, dim=-1) if normalize else kept

    def _checked_dim(self, truncate_dim: int) -> int:
        if not 0 < truncate_dim <= self.width:
            raise ValueError(f"truncate_dim is {truncate_dim}, the embeddings have 1 to {self.width} dimensions")
        return truncate_dim

    # ------------------------------------------------------------ comparing and saving

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """The model's own similarity of all pairs, [N, D], [M, D] -> [N, M]."""
        return similarity(self.similarity_name)(torch.as_tensor(a), torch.as_tensor(b))

    def similarity_pairwise(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """The model's own similarity of each row with its partner, [N, D], [N, D] -> [N]."""
        return pairwise_similarity(self.similarity_name)(torch.as_tensor(a), torch.as_tensor(b))

    def content(self) -> Content:
        """Everything that a model folder holds."""
        return Content(
            modules=list(self.stack),
            tokenizer=self.tokenizer,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity=self.similarity_name,
            truncate_dim=self.truncate_dim,
        )

    def save(self, path: str | Path) -> None:
        """Write a model folder that sentence-transformers opens too."""
        save_folder(self.content(), Path(path))


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise ValueError(f"device is {str(device)!r}, which cannot be used here: {str(e).splitlines()[0]}") from None
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype or torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, known are {', '.join(DTYPES)}")
    return DTYPES[dtype]
