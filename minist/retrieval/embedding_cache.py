"""Embeddings of length one, kept in files, so that a killed run goes on and the next one need not embed again: float32
[texts, D] in <folder>/<seal>.npy, whose seal is a hash of the texts, of their prompt, and of the model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minist.data.embedding_file import EmbeddingFile, block_name
from minist.data.texts import BLOCK_CHARACTERS, BLOCK_TEXTS, chunks
from minist.progress import progress_bar


def unit_embeddings(
    model: Any, tokens: int, folder: str | Path | None, show: bool | None, texts: list[str], prompt: str, role: str
) -> Tensor:
    """[N, D] float32 on the CPU, of length one, by forward passes of so many `tokens`; `folder` None keeps nothing."""

    def embed(block: list[str]) -> Tensor:
        embeddings, _ = model.embed(block, prompt, tokens, bar.update, role)
        return F.normalize(embeddings[:, : model.out_width], dim=-1)  # after the cut, which shortens them

    with progress_bar(len(texts), "texts", f"embedding {role} texts", show) as bar:
        if folder is None:
            return embed(texts)
        file = Path(folder) / f"{seal(model, role, prompt, texts)}.npy"
        out, first = EmbeddingFile(file, model.out_width, np.dtype("<f4")), 0
        if out.start({}, [], resume=True):  # it is complete: all that could differ is in the name
            bar.update(len(texts))
        else:
            for block in chunks(texts, BLOCK_TEXTS, BLOCK_CHARACTERS, len):
                if out.claim(name := block_name(first, block)):  # else an earlier run has made it
                    out.write(name, first, embed(block).numpy(), 0)
                first += len(block)
                bar.update(first - bar.n)
            out.finish(len(texts))
    return torch.from_numpy(np.load(file))


def seal(model: Any, role: str, prompt: str, texts: list[str]) -> str:
    """A name for the embeddings of these texts: another where anything differs that decides about them."""
    model.refuse_int8("the source of embeddings that are kept")  # its weights are not in what is hashed
    found, tokenizer = hashlib.blake2b(digest_size=12), model.tokenizer_for(role)
    reader = [tokenizer.max_length, tokenizer.special_tokens, tokenizer.backend.to_str()]
    found.update(json.dumps([reader, prompt, model.out_width, block_name(len(texts), texts)]).encode())
    for module in model.stack.paths[model.stack.route(role)]:
        config, weights = module.to_folder()
        types = {name: str(weight.dtype) for name, weight in weights.items()}
        found.update(json.dumps([module.name, config, types], default=str).encode())
        for weight in weights.values():
            found.update(weight.flatten().view(torch.uint8).numpy())  # bytes: numpy has no bfloat16
    return found.hexdigest()
