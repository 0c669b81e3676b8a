"""Embeddings of length one, kept in files, so that a killed run goes on and the next one need not embed again.

<folder>/<seal>.npy   float32 [texts, D]; the seal is a hash of the texts, of their prompt, and of the model
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minist.checks import number
from minist.data.embedding_file import EmbeddingFile, block_name
from minist.data.texts import BLOCK_CHARACTERS, BLOCK_TEXTS, chunks
from minist.progress import Update, progress_bar


class TextEmbedder(Protocol):
    """What is asked of a model here; a SentenceTransformer has it all."""

    stack: Any
    similarity_name: str

    @property
    def out_width(self) -> int: ...  # of what a user gets

    @property
    def device(self) -> torch.device: ...

    def find_prompt(self, prompt_name: str | None, prompt: str | None, role: str | None = None) -> str: ...

    def tokenizer_for(self, role: str | None) -> Any: ...

    def embed(
        self, texts: Sequence[str], prompt: str, batch_tokens: int, done: Update, role: str | None
    ) -> tuple[Tensor, int]: ...


class UnitEmbeddings:
    """Embeds texts with `model`, in forward passes of `batch_tokens`; `folder` None keeps nothing."""

    def __init__(self, model: TextEmbedder, batch_tokens: int, folder: str | Path | None, show: bool | None) -> None:
        self.model, self.show = model, show
        self.batch_tokens = number("batch_tokens", batch_tokens, 0)
        self.folder = None if folder is None else Path(folder)

    def __call__(self, texts: Sequence[str], prompt: str, role: str) -> Tensor:
        """[N, D] float32 on the CPU, each row of length one; `prompt` is put before each text."""
        with progress_bar(len(texts), "texts", f"embedding {role} texts", self.show) as bar:
            if self.folder is None:
                return self._embed(texts, prompt, role, bar.update)
            file = self.folder / f"{seal(self.model, role, prompt, texts)}.npy"
            self._fill(file, texts, prompt, role, bar.update)
        return torch.from_numpy(np.load(file))

    def _embed(self, texts: Sequence[str], prompt: str, role: str, done: Update) -> Tensor:
        embeddings, _ = self.model.embed(texts, prompt, self.batch_tokens, done, role)
        return F.normalize(embeddings[:, : self.model.out_width], dim=-1)  # after the cut, which shortens them

    def _fill(self, file: Path, texts: Sequence[str], prompt: str, role: str, done: Update) -> None:
        """Make `file`, block by block; of what an earlier run has done nothing is done again."""
        out, first = EmbeddingFile(file, self.model.out_width, np.dtype("<f4")), 0
        if out.start({}, [], resume=True):  # all that could differ is in the name
            done(len(texts))
            return
        for block in chunks(texts, BLOCK_TEXTS, BLOCK_CHARACTERS, len):
            name = block_name(first, block)
            if out.claim(name):
                out.write(name, first, self._embed(block, prompt, role, done).numpy(), 0)
            else:
                done(len(block))
            first += len(block)
        out.finish(len(texts))


def seal(model: TextEmbedder, role: str, prompt: str, texts: Sequence[str]) -> str:
    """A name for the embeddings of these texts: another where anything differs that decides about them."""
    found, tokenizer = hashlib.blake2b(digest_size=12), model.tokenizer_for(role)
    reader = [tokenizer.max_length, tokenizer.special_tokens, tokenizer.backend.to_str()]
    found.update(json.dumps([reader, prompt, model.out_width, block_name(len(texts), texts)]).encode())
    for module in model.stack.paths[model.stack.route(role)]:
        config, weights = module.to_folder()
        described = {name: str(weight.dtype) for name, weight in weights.items()}
        found.update(json.dumps([module.name, config, described], default=str).encode())
        for weight in weights.values():
            found.update(weight.flatten().view(torch.uint8).numpy())  # bytes: numpy has no bfloat16
    return found.hexdigest()
