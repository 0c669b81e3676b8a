"""SentenceTransformer: one embedding per text (Reimers and Gurevych 2019, arXiv:1908.10084).

texts -> tokenizer -> Packed -> encoder [T, D] -> pooling [N, D] -> text modules [N, D']"""

from functools import partialmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minist.checks import pick, refuse
from minist.data.packed import Packed
from minist.data.tokenizer import Texts, checked_texts
from minist.models.device import Devices, embed
from minist.models.text_model import TextModel
from minist.progress import progress_bar
from minist.quantization import PRECISIONS, quantize
from minist.similarity import pairwise_similarity, similarity


class SentenceTransformer(TextModel):
    """A dense bi-encoder.

    model = SentenceTransformer("path/to/all-MiniLM-L6-v2")
    embeddings = model.encode(["a text", "another"])  # [2, 384]
    model.similarity(embeddings, embeddings)  # [2, 2]"""

    def encode(
        self, texts: str | Texts, *, role: str | None = None, prompt_name: str | None = None, prompt: str | None = None,
        truncate_dim: int | None = None, normalize_embeddings: bool = False, precision: str = "float32",
        ranges: np.ndarray | None = None, convert_to_tensor: bool = False,
        batch_tokens: int = 0, device: Devices = None, show_progress_bar: bool | None = None, **theirs: Any,
    ) -> np.ndarray | Tensor:  # fmt: skip
        """Embeddings [N, D] of `texts` in float32; of a single string [D].

        `role`, such as "query" or "document", says what the texts are: it picks a route, where the model has some, and
        a prompt, unless another is given (short: `encode_query`, `encode_document`). `prompt`, or the model's own of
        that name, is put before each text. Texts are cut at `max_length` tokens; a tuple of two is a pair.
        `truncate_dim` keeps the first dimensions, then `normalize_embeddings` scales to length one, then `precision`
        makes codes of them, see quantization.py. `batch_tokens` bounds the memory and does not change the result; 0 is
        a good number for the device. Several in `device` (["cuda:0", "cuda:1"]) share the texts, see device.py.
        `convert_to_tensor` gives a tensor, on the model's device. `theirs` are refused with advice."""
        refuse(theirs, "encode")
        pick("precision", precision, PRECISIONS)
        prefix, (many, is_one) = self.find_prompt(prompt_name, prompt, role), checked_texts(texts)
        embeddings = embed(self, device, many, prefix, role, batch_tokens, show_progress_bar)
        result = embeddings[:, : self.kept_dim(truncate_dim)]
        result = F.normalize(result, dim=-1) if normalize_embeddings else result
        if precision != "float32":
            result = torch.from_numpy(quantize(result.numpy(), precision, ranges))
        result = result[0] if is_one else result
        return result.to(self.device) if convert_to_tensor else result.numpy()

    encode_query = partialmethod(encode, role="query")
    encode_document = partialmethod(encode, role="document")

    def encode_tokens(
        self, texts: str | Texts, *, role: str | None = None, prompt_name: str | None = None, prompt: str | None = None,
        batch_tokens: int = 0, show_progress_bar: bool | None = None,
    ) -> list[np.ndarray] | np.ndarray:  # fmt: skip
        """What the pooling sees: for each text its tokens' vectors, [tokens, D] in float32, special tokens and prompt
        among them; of a single string one array. ValueError where the route has no vectors of tokens."""
        prefix, (many, is_one) = self.find_prompt(prompt_name, prompt, role), checked_texts(texts)

        def compute(batch: Packed) -> list[np.ndarray]:
            x = self.stack.token_vectors(batch.to(self.device), role).float().cpu()  # a chunk's would fill a GPU
            return [text.numpy() for text in x.split(batch.lengths.tolist())]

        found: dict[int, np.ndarray] = {}
        with progress_bar(len(many), "texts", "encoding", show_progress_bar) as bar:
            for places, batches, _ in self.rows(many, prefix, role, batch_tokens, compute, bar.update):
                found |= zip(places.tolist(), (text for batch in batches for text in batch), strict=True)
        return found[0] if is_one else [found[i] for i in range(len(many))]

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """The model's own similarity of all pairs, [N, D], [M, D] -> [N, M]."""
        return similarity(self.similarity_name)(torch.as_tensor(a), torch.as_tensor(b))

    def similarity_pairwise(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> Tensor:
        """The model's own similarity of each row with its partner, [N, D], [N, D] -> [N]."""
        return pairwise_similarity(self.similarity_name)(torch.as_tensor(a), torch.as_tensor(b))
