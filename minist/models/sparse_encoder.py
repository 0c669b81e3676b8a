"""SparseEncoder: one weight per text and word of the vocabulary, most of them 0; or per latent of an autoencoder.

texts -> Packed -> encoder [T, D] -> MaskedLMHead -> SpladePooling [N, V]         SPLADE, arXiv:2107.05720
texts -> Packed -> encoder [T, D] -> Pooling [N, D] -> SparseAutoEncoder [N, V]   CSR, arXiv:2503.01776
queries -> SparseStaticEmbedding [N, V], documents as above                       arXiv:2411.04403

A dense embedding is compared with all others. Of a sparse one, an inverted index looks at those alone that share a
word with the query; and each weight has a name, so a person sees why a document was found."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from minist.batch import Batch
from minist.checks import refuse, whole
from minist.data.packed import Packed
from minist.data.tokenizer import Texts, Tokenizer, checked_texts
from minist.encoders.encoder import Encoder
from minist.models.device import Device, Devices, Dtype, coo, embed
from minist.models.folder import Content
from minist.models.masked_lm import words_head
from minist.models.stack import Stack
from minist.models.text_model import TextModel
from minist.modules.splade import SpladePooling
from minist.progress import Update
from minist.similarity import dense_blocks, pairwise_similarity, similarity

FORMS = ("convert_to_numpy", "convert_to_tensor", "convert_to_sparse_tensor")  # in sentence-transformers
RAMP = 1 / 3  # of a training, until which regularizers have not their full weight, see losses/sparse.py


class SparseEncoder(TextModel):
    """A learned sparse retriever.

    model = SparseEncoder("path/to/splade-v3")
    embeddings = model.encode(["a text", "another"])  # [2, 30522], sparse
    model.decode(embeddings, top_k=3)  # [[("text", 1.9), ..], ..]"""

    gives, pooling, likeness = "sparse", "max", "dot"

    def __init__(
        self, source: str | Path | Content, *, max_active_dims: int | None = None,
        device: Device = None, dtype: Dtype = None, revision: str | None = None, token: str | None = None,
        keep_layers: Sequence[int] | None = None, prompts: Mapping[str, str] | None = None,
        adapter: str | Path | None = None,
    ) -> None:  # fmt: skip
        """As TextModel. A plain checkpoint of a masked language model gets a SpladePooling of its largest scores.
        `max_active_dims` keeps the largest weights of each text alone; None: as the folder says, else all."""
        where: dict[str, Any] = {"revision": revision, "token": token, "adapter": adapter, "prompts": prompts}
        where |= {"device": device, "dtype": dtype, "keep_layers": keep_layers}
        super().__init__(source, **where)
        self.max_active_dims = self.settings.get("max_active_dims") if max_active_dims is None else max_active_dims
        self.kept_active(None)

    @classmethod
    def adapt(cls, content: Content, num_labels: int | None = None) -> Content:
        if content.stack.gives != "sparse":
            reader = content.stack.reader()
            if "model_type" in content.settings:
                what = f"{reader.folder} is no sparse model: open it with {content.settings['model_type']}"
                raise ValueError(f"{what}, or begin with a plain checkpoint of a masked language model")
            content = replace(content, stack=Stack([reader, words_head(reader), SpladePooling()]))
        return super().adapt(content, num_labels)

    @classmethod
    def from_encoder(cls, encoder: Encoder, tokenizer: Tokenizer, pooling: str) -> Self:
        return cls.from_modules([encoder, words_head(encoder), SpladePooling(strategy=pooling)], tokenizer)

    def kept_active(self, given: int | None) -> int:
        """How many weights of a text are kept at most: `given`, else the model's own number, else all."""
        chosen = self.max_active_dims if given is None else given
        return self.width if chosen is None else min(whole("max_active_dims", chosen, 1), self.width)

    def content(self) -> Content:
        content = super().content()
        content.settings["max_active_dims"] = self.max_active_dims
        return content

    def describe(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, float]:
        """How many words of a query, the first column, and of a document are active. It warns where training fails."""
        first, *others = active = [x.detach().count_nonzero().item() / max(len(x), 1) for x in embeddings]
        if max(active) == 0:
            advice = "begin again with smaller weights of the regularizers, or a lower learning rate"
            warnings.warn(f"no text has an active word left: {advice}", stacklevel=2)
        elif max(active) > self.width / 2 and batch.progress > RAMP:
            advice = "larger weights of the regularizers make it sparse"
            warnings.warn(f"more than half of all words are active in a text: {advice}", stacklevel=2)
        if not others:
            return {"active_dims": first}
        return {"query_active_dims": first, "document_active_dims": sum(others) / len(others)}

    def encode(
        self, texts: str | Texts, *, role: str | None = None, prompt_name: str | None = None, prompt: str | None = None,
        max_active_dims: int | None = None, batch_tokens: int = 0, device: Devices = None,
        show_progress_bar: bool | None = None, **theirs: Any,
    ) -> Tensor:  # fmt: skip
        """Embeddings [N, V] of `texts`, a coalesced sparse tensor in float32 on the CPU; of a single string [V].

        `max_active_dims` keeps so many weights of each text, those that are farthest from 0; all else is as in
        SentenceTransformer.encode."""
        refuse(theirs, "encode", dict.fromkeys(FORMS, "it always gives a sparse tensor: .to_dense() makes the other"))
        prefix, (many, is_one) = self.find_prompt(prompt_name, prompt, role), checked_texts(texts)
        own, self.max_active_dims = self.max_active_dims, self.kept_active(max_active_dims)  # for this call
        try:
            embeddings = embed(self, device, many, prefix, role, batch_tokens, show_progress_bar)
        finally:
            self.max_active_dims = own
        return embeddings[0].coalesce() if is_one else embeddings

    encode_query = partialmethod(encode, role="query")
    encode_document = partialmethod(encode, role="document")

    def embed(self, texts: Texts, prompt: str, batch_tokens: int, done: Update, role: str | None) -> tuple[Tensor, int]:
        """The embeddings, sparse [N, V] on the CPU, and how many texts were cut. No more than a batch is ever dense."""
        found, cut, kept = [torch.empty(0, self.width).to_sparse()], 0, self.kept_active(None)

        def compute(batch: Packed) -> Tensor:
            x = self([batch], [role])[0][0].float().to_sparse().cpu()
            return x if kept == self.width else largest_weights(x, kept)

        for places, parts, cut_here in self.rows(texts, prompt, role, batch_tokens, compute, done):
            found.append(torch.cat(parts).index_select(0, places.argsort()))  # back into the order of the texts
            cut += cut_here
        return torch.cat(found).coalesce(), cut

    def decode(self, embeddings: Tensor, top_k: int | None = None) -> list[Any]:
        """Of each row [N, V] its tokens with their weights, the largest first, at most `top_k`; of [V] one such list.
        What is active in an autoencoder has no word: there the tokens mean nothing."""
        most = None if top_k is None else whole("top_k", top_k, 1)
        if embeddings.dim() == 2:
            return [self.decode(row, most) for row in embeddings.cpu()]
        row = embeddings.cpu().to_sparse().coalesce()
        order = row.values().argsort(descending=True, stable=True)[:most]
        ids, weights = row.indices()[0][order].tolist(), row.values()[order].tolist()
        return [(self.tokenizer.backend.id_to_token(i), w) for i, w in zip(ids, weights, strict=True)]

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """The model's own similarity of all pairs, [N, V], [M, V] -> [N, M], dense."""
        score, (a, b) = similarity(self.similarity_name), (x if x.dim() == 2 else x[None] for x in (a, b))
        return torch.cat([torch.cat([score(x, y) for y in dense_blocks(b)], dim=1) for x in dense_blocks(a)])

    def similarity_pairwise(self, a: Tensor, b: Tensor) -> Tensor:
        """The model's own similarity of each row with its partner, [N, V], [N, V] -> [N]."""
        score = pairwise_similarity(self.similarity_name)
        return torch.cat([score(x, y) for x, y in zip(dense_blocks(a), dense_blocks(b), strict=True)])


def sparsity(embeddings: Tensor) -> dict[str, float]:
    """How many numbers of a row are not 0 in the mean, `active_dims`, and what share of all is 0, `sparsity_ratio`."""
    rows = len(embeddings) if embeddings.dim() == 2 else 1
    active = embeddings.to_sparse().coalesce().values().count_nonzero().item() / max(rows, 1)
    return {"active_dims": active, "sparsity_ratio": 1 - active / max(embeddings.shape[-1], 1)}


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """What one embedding a [V] shares with b [V] or each of b [M, V]: products of weights, where they are above 0."""
    a, b = a.to_dense(), b.to_sparse().coalesce()
    products = b.values() * a[b.indices()[-1]]
    shared = products > 0
    return coo(b.indices()[:, shared], products[shared], b.shape)


def largest_weights(embeddings: Tensor, k: int) -> Tensor:
    """The k numbers of each row that are farthest from 0, of a coalesced [N, V]; of equal ones the lower column."""
    rows, values = embeddings.indices()[0], embeddings.values()
    order = values.abs().argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]  # by row, and in each the largest first
    counts = torch.bincount(rows, minlength=len(embeddings))
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)  # where its row begins
    kept = order[torch.arange(len(order)) - first < k].sort().values
    return coo(embeddings.indices()[:, kept], values[kept], embeddings.shape)
