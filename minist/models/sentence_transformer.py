"""SentenceTransformer: one embedding per text (Reimers and Gurevych 2019, arXiv:1908.10084).

texts -> tokenizer -> Packed -> encoder [T, D] -> pooling [N, D] -> text modules [N, D']

Where the model has a Router, a text's role, "query" or "document" mostly, picks the way that it goes.
"""

from collections.abc import Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.data.packed import Packed
from minist.data.tokenizer import Text, Tokenizer
from minist.models.device import find_device, find_dtype
from minist.models.folder import Content, content_of, load_folder, save_folder
from minist.models.hub import find_model, push_folder
from minist.models.parallel import embed_on
from minist.models.stack import Stack
from minist.models.text_model import TextModel
from minist.modules.pooling import Pooling
from minist.progress import Update, progress_bar
from minist.quantization import check_precision, quantize
from minist.similarity import pairwise_similarity, similarity

CHUNK = 8192  # texts that are tokenized, and sorted by length, at a time


class SentenceTransformer(TextModel):
    """A dense bi-encoder.

    model = SentenceTransformer("path/to/all-MiniLM-L6-v2")
    embeddings = model.encode(["a text", "another"])  # [2, 384]
    model.similarity(embeddings, embeddings)  # [2, 2]
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        truncate_dim: int | None = None,
        keep_layers: Sequence[int] | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
    ) -> None:
        """Read a model folder, or the model of that name on the Hugging Face hub, see hub.py.

        `device` None takes the GPU if there is one. `dtype`: None is float32, "auto" is bfloat16 where that is
        fast. `truncate_dim` keeps the first dimensions of each embedding, `keep_layers` these layers of the
        encoder (the first is 0). `prompts` are added to those of the folder. ValueError for a folder that is no
        model, and for settings that cannot be.
        """
        super().__init__()
        content = load_folder(find_model(name_or_path, revision, token))
        self._assemble(content)
        self.prompts |= prompts or {}
        self.default_prompt_name = default_prompt_name or content.default_prompt_name
        self.find_prompt(None, None)
        self.truncate_dim = content.truncate_dim if truncate_dim is None else self._checked_dim(truncate_dim)
        if keep_layers is not None:
            self.keep_layers(keep_layers)
        place = find_device(device)
        self.to(device=place, dtype=find_dtype(dtype, place))
        self.eval()

    def _assemble(self, content: Content) -> None:
        self.assemble(content)
        self.similarity_name = content.similarity
        self.truncate_dim = content.truncate_dim

    @classmethod
    def from_modules(
        cls, modules: Sequence[nn.Module], tokenizer: Tokenizer | Mapping[str, Tokenizer]
    ) -> "SentenceTransformer":
        """A model of the given parts, see stack.py for the order.

        `tokenizer` is one for all texts, or one by route. ValueError for parts that do not go together.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._assemble(content_of(Stack(modules), tokenizer))
        return model

    @classmethod
    def from_encoder(cls, encoder: nn.Module, tokenizer: Tokenizer, pooling: str) -> "SentenceTransformer":
        """A new model round an encoder with random weights."""
        return cls.from_modules([encoder, Pooling(encoder.width, (pooling,))], tokenizer)  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        """Dimensions of an embedding, D, before `truncate_dim`."""
        return self.stack.out_width

    @property
    def out_width(self) -> int:
        """Dimensions of what `encode` returns."""
        return self.width if self.truncate_dim is None else self.truncate_dim

    # ------------------------------------------------------------ encoding

    def encode(
        self,
        texts: str | Sequence[Text],
        *,
        role: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_tokens: int = 0,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        precision: str = "float32",
        ranges: np.ndarray | None = None,
        device: str | torch.device | Sequence[str] | None = None,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor:
        """Embeddings [N, D] of `texts` in float32; of a single string [D].

        `role`, such as "query" or "document", says what the texts are: it picks the model's route for them, where
        it has some, and its prompt, unless another is given; `encode_query` and `encode_document` are short for
        it. `prompt`, or the model's own of that name, is put before each text. Texts are cut at
        `tokenizer_for(role).max_length` tokens. `truncate_dim` keeps the first dimensions, then
        `normalize_embeddings` scales to length one, then `precision` makes codes of them, see
        quantization.py. `batch_tokens` bounds the memory and does not change the result; 0 is a good
        number for the device. Several in `device`, such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"], share the
        texts, see parallel.py. `convert_to_tensor` gives a tensor, on the model's device.
        """
        check_precision(precision)
        prefix = self.find_prompt(prompt_name, prompt, role)
        self.stack.route(role)
        many = [texts] if isinstance(texts, str) else texts
        several: Sequence[str] = []
        if isinstance(device, str | torch.device):
            self.to(find_device(device))
        elif device is not None:
            several = [str(find_device(d)) for d in device]
        with progress_bar(len(many), "texts", "encoding", show_progress_bar) as bar:
            embeddings = self._embed_all(many, prefix, batch_tokens, several, bar.update, role)
        result = self.finish(embeddings, truncate_dim, normalize_embeddings)
        if precision != "float32":
            result = torch.from_numpy(quantize(result.cpu().numpy(), precision, ranges))
        result = result[0] if isinstance(texts, str) else result
        return result.to(self.device) if convert_to_tensor else result.cpu().numpy()

    encode_query = partialmethod(encode, role="query")
    encode_document = partialmethod(encode, role="document")

    def _embed_all(
        self,
        texts: Sequence[Text],
        prompt: str,
        batch_tokens: int,
        devices: Sequence[str],
        done: Update,
        role: str | None,
    ) -> Tensor:
        """All texts, chunk after chunk: [N, D]."""
        chunks = [torch.zeros(0, self.width, device=self.device)]
        if devices:
            for part in embed_on(devices, self, texts, prompt, batch_tokens, role):
                chunks.append(torch.from_numpy(part).to(self.device))
                done(len(part))
            return torch.cat(chunks)
        for start in range(0, len(texts), CHUNK):
            chunks.append(self.embed(texts[start : start + CHUNK], prompt, batch_tokens, done, role)[0])
        return torch.cat(chunks)

    def embed(
        self, texts: Sequence[Text], prompt: str, batch_tokens: int, done: Update, role: str | None = None
    ) -> tuple[Tensor, int]:
        """What the model gives for `texts`, [N, D] in float32 on its device, and how many of them were cut."""
        tokenizer = self.tokenizer_for(role)
        tokens = tokenizer(texts, prompt)
        packed = tokens.packed(tokenizer.prompt_length(prompt))
        order = packed.lengths.argsort(descending=True, stable=True)  # the largest batch first: it sets the memory
        embeddings = torch.empty(len(texts), self.width, device=self.device)
        places = order.to(self.device)
        with self.inference():
            for batch in packed.take(order).split(batch_tokens or self.default_batch_tokens):
                embeddings[places[: batch.n]] = self([batch], [role])[0][0].float()
                places = places[batch.n :]
                done(batch.n)
        return embeddings, int(tokens.was_cut.sum())

    def encode_tokens(
        self,
        texts: str | Sequence[Text],
        *,
        role: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_tokens: int = 0,
        show_progress_bar: bool | None = None,
    ) -> list[np.ndarray] | np.ndarray:
        """What the pooling sees: for each text its tokens' vectors, [tokens, D] in float32, special tokens and prompt
        among them; of a single string one array. ValueError for a model, or a route of it, that has no vectors of
        tokens in a text."""
        if not self.stack.token_modules(role):
            raise ValueError("a StaticEmbedding knows no vector of a token in its text")
        prefix = self.find_prompt(prompt_name, prompt, role)
        many = [texts] if isinstance(texts, str) else texts
        outputs: list[np.ndarray] = []
        with progress_bar(len(many), "texts", "encoding", show_progress_bar) as bar:
            for start in range(0, len(many), CHUNK):
                packed = self.tokenizer_for(role)(many[start : start + CHUNK], prefix).packed()
                outputs += self._token_vectors(packed, batch_tokens, bar.update, role)
        return outputs[0] if isinstance(texts, str) else outputs

    def _token_vectors(self, packed: Packed, batch_tokens: int, done: Update, role: str | None) -> list[np.ndarray]:
        order = packed.lengths.argsort(descending=True, stable=True)
        outputs: list[np.ndarray] = []
        with self.inference():
            for batch in packed.take(order).split(batch_tokens or self.default_batch_tokens):
                x = self.stack.token_vectors(batch.to(self.device), role).float().cpu()
                outputs += [text.numpy() for text in x.split(batch.lengths.tolist())]
                done(batch.n)
        return [outputs[place] for place in order.argsort().tolist()]

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
            stack=self.stack,
            tokenizer=self.tokenizer,
            tokenizers=self.tokenizers,
            prompts=self.prompts,
            default_prompt_name=self.default_prompt_name,
            similarity=self.similarity_name,
            truncate_dim=self.truncate_dim,
        )

    def save(self, path: str | Path) -> None:
        """Write a model folder that sentence-transformers opens too."""
        save_folder(self.content(), Path(path))

    def push_to_hub(
        self, repo: str, *, private: bool = False, token: str | None = None, revision: str | None = None
    ) -> str:
        """Put the model into the repository "owner/name" of the Hugging Face hub; returns its address."""
        with TemporaryDirectory() as folder:
            self.save(Path(folder) / "model")
            return push_folder(Path(folder) / "model", repo, private=private, token=token, revision=revision)
