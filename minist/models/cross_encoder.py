"""CrossEncoder: one score, or one for each label, of a pair of texts that are read together.

pairs -> the tokens of each text -> Packed of pairs -> encoder [T, D] -> ClassificationHead [N, C]

A bi-encoder embeds two texts apart, once for all queries; a cross-encoder lets every word of the one attend to every
word of the other. It is slower by the number of documents, and better: so it reranks what a bi-encoder has found
(Nogueira and Cho 2019, arXiv:1901.04085)."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import listing, refuse, whole
from minist.data.packed import Packed
from minist.data.pairing import Pairing, checked_pairs
from minist.data.tokenizer import Texts
from minist.diagnostics import describe_scores
from minist.encoders.weights import draw
from minist.models.device import Device, Devices, Dtype, embed
from minist.models.folder import Content
from minist.models.reading import read_optional, read_weights
from minist.models.stack import Stack
from minist.models.text_model import TextModel
from minist.modules.classification_head import ACTIVATIONS, ClassificationHead, default_labels, find_activation

# settings of a bi-encoder that mean nothing to a cross-encoder, or something else
OF_EMBEDDINGS = ("model_type", "truncate_dim", "prompts", "default_prompt_name")


class CrossEncoder(TextModel):
    """A reranker, or a classifier of pairs.

    model = CrossEncoder("path/to/ms-marco-MiniLM-L6-v2")
    model.predict([("a query", "a document"), ("a query", "another")])  # [2]
    model.rank("a query", ["a document", "another"])  # [{"corpus_id": 1, "score": 0.98}, ..]"""

    gives, example = "scores", "pairs.tsv --output scores.npy"

    def __init__(
        self, source: str | Path | Content, *, num_labels: int | None = None, max_length: int | None = None,
        activation_fn: str | nn.Module | None = None, device: Device = None, dtype: Dtype = None,
        revision: str | None = None, token: str | None = None,
        keep_layers: Sequence[int] | None = None, prompts: Mapping[str, str] | None = None,
        adapter: str | Path | None = None,
    ) -> None:  # fmt: skip
        """As TextModel. An encoder without a head gets a new one of `num_labels` (None: 1), drawn by torch's seed, and
        a warning says so; a head of another number gets a new last layer. `activation_fn`, a module of torch.nn or its
        name, is applied to the scores; None: the folder's, else a sigmoid for one label and nothing for several.
        ValueError for a bi-encoder without `num_labels`: its head would be an unexpected one."""
        where: dict[str, Any] = {"revision": revision, "token": token, "adapter": adapter, "prompts": prompts}
        where |= {"device": device, "dtype": dtype, "keep_layers": keep_layers}
        super().__init__(source, **where, num_labels=num_labels)
        if max_length is not None:
            self.max_length = max_length
        encoder: Any = self.stack.reader()
        self.pairing = Pairing(self.tokenizer, encoder.token_types)
        default = self.settings.get("activation_fn") or ("Sigmoid" if self.num_labels == 1 else "Identity")
        self.activation_fn = find_activation(default if activation_fn is None else activation_fn)

    @classmethod
    def adapt(cls, content: Content, num_labels: int | None = None) -> Content:
        """As it is, or with a new head where there is none of that size. It warns then."""
        stack, labels = content.stack, None if num_labels is None else whole("num_labels", num_labels, 1, 10**6)
        reader: Any = stack.reader()
        if stack.gives == "scores":
            head: Any = stack[-1]
            if labels in (None, head.out_width):
                return content
            head.set_labels(default_labels(labels))
            draw(head.classifier, reader.config.initializer_range)
            warnings.warn(f"the last layer of the head is a new one, of {labels} labels: train it", stacklevel=3)
            # the activation was that of the old labels
            return replace(content, settings={k: v for k, v in content.settings.items() if k != "activation_fn"})
        if labels is None and "model_type" in content.settings:
            what = f"{reader.folder} is a bi-encoder: open it with {content.settings['model_type']}"
            raise ValueError(f"{what}, or give num_labels to train a cross-encoder from its encoder")
        if stack.router or not reader.num_layers:
            raise ValueError(f"{reader.folder} begins with {reader.name}: a cross-encoder needs one encoder for all")
        config, weights = plain_checkpoint(reader)
        head = ClassificationHead(config, default_labels(labels or 1))
        from_file = head.begin(weights, config["initializer_range"])
        kept = " (but for its dense layer, the checkpoint's pooler)" if from_file else ""
        warnings.warn(f"the model has a new head{kept}, of {labels or 1} labels: train it", stacklevel=2)
        own = {key: value for key, value in content.settings.items() if key not in OF_EMBEDDINGS}
        return replace(content, stack=Stack([reader, head]), settings=own)

    @property
    def head(self) -> ClassificationHead:
        return cast(ClassificationHead, self.stack[-1])  # TextModel has checked what the stack gives

    @property
    def num_labels(self) -> int:
        return self.width  # C

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.head.labels))  # it is saved; set it by a table with the same numbers

    @id2label.setter
    def id2label(self, names: Mapping[int, str]) -> None:
        if sorted(names) != list(range(self.num_labels)) or len({*map(str, names.values())}) < len(names):
            raise ValueError(f"id2label is {dict(names)}: give 0 to {self.num_labels - 1} a name each, no two the same")
        self.head.labels = [str(names[i]) for i in range(self.num_labels)]

    def name_labels(self, classes: list[str]) -> list[str]:
        """The order of words that are labels: the model's own, if it has names. Else it takes these and saves them."""
        own, count = self.head.labels, len(classes)
        if not classes or set(classes) <= set(own):
            return own if classes else []
        if own != default_labels(count):
            spell = "spell them as the model does, or set its id2label"
            way = spell if len(own) == count else f"set num_labels to {count}"
            raise ValueError(f"the labels are {listing(classes)}, the model's {listing(own)}: {way}")
        self.head.labels = list(classes)
        return classes

    def content(self) -> Content:
        kind, content = type(self.activation_fn), super().content()
        if ACTIVATIONS.get(kind.__name__) is not kind or repr(kind()) != repr(self.activation_fn):
            warnings.warn(f"of activation_fn {self.activation_fn} only the name is saved: give it again", stacklevel=2)
        own: dict[str, Any] = {"activation_fn": f"{kind.__module__}.{kind.__name__}", "similarity_fn_name": None}
        own |= {"id2label": self.id2label} if self.is_adapted else {}  # beside an adapter there is no config.json
        return replace(content, settings=content.settings | own)

    def describe(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, float]:
        counts = batch.counts[0] if batch.counts else None
        return describe_scores(embeddings[0], self.activation_fn, batch.labels, counts)

    def read(self, texts: Texts, prompt: str, role: str | None) -> tuple[Packed, int]:
        assert self.pairing
        return self.pairing.read(cast(Sequence[tuple[str, str]], texts), prompt)

    def predict(
        self, pairs: Iterable[Sequence[str]], *, prompt_name: str | None = None, prompt: str | None = None,
        activation_fn: str | nn.Module | None = None, apply_softmax: bool = False, convert_to_tensor: bool = False,
        batch_tokens: int = 0, device: Devices = None, show_progress_bar: bool | None = None, **theirs: Any,
    ) -> np.ndarray | Tensor:  # fmt: skip
        """Scores of `pairs` of texts in float32: [N], with several labels [N, C]; of a single pair a number or [C].

        `activation_fn` is this call's; `apply_softmax` makes shares of several labels, after it. `prompt`, or the
        model's own of that name, is put before the first text of each pair. The longer text of a pair is cut first,
        until both fit into `max_length` tokens. `batch_tokens` and `device` as in SentenceTransformer.encode."""
        refuse(theirs, "predict")
        prefix, (many, is_one) = self.find_prompt(prompt_name, prompt), checked_pairs(pairs)
        logits = embed(self, device, many, prefix, None, batch_tokens, show_progress_bar)
        scores = find_activation(self.activation_fn if activation_fn is None else activation_fn)(logits).detach()
        if self.num_labels == 1:
            scores = scores[:, 0]
        elif apply_softmax:
            scores = scores.softmax(dim=1)
        scores = scores[0] if is_one else scores
        return scores.to(self.device) if convert_to_tensor else scores.numpy()[()]  # of no dimension: a number

    def rank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, return_documents: bool = False,
        activation_fn: str | nn.Module | None = None, prompt_name: str | None = None, prompt: str | None = None,
        batch_tokens: int = 0, device: Devices = None, show_progress_bar: bool | None = None, **theirs: Any,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The documents from the best to the worst for `query`: [{"corpus_id": place in `documents`, "score": ..}, ..],
        at most `top_k`, with their "text" if `return_documents`; of equal scores the earlier document comes first.
        ValueError for a model of several labels."""
        if self.num_labels != 1:
            raise ValueError(f"rank needs a model of one label, this one has {self.num_labels}: use predict")
        if isinstance(documents, str):  # each of its letters would be one
            raise ValueError("rank takes one query, and a list of documents: use predict for other pairs")
        documents, most = list(documents), None if top_k is None else whole("top_k", top_k, 1)
        places = {text: i for i, text in enumerate(dict.fromkeys(documents))}  # each once: equal ones score alike
        how: dict[str, Any] = {"activation_fn": activation_fn, "prompt_name": prompt_name, "prompt": prompt, **theirs}
        how |= {"batch_tokens": batch_tokens, "show_progress_bar": show_progress_bar, "device": device}
        scores = np.asarray(self.predict([(query, text) for text in places], **how))
        scores = scores[[places[text] for text in documents]]
        order = np.argsort(-scores, kind="stable")[:most].tolist()
        found = [{"corpus_id": i, "score": float(scores[i])} for i in order]
        return [{**hit, "text": documents[hit["corpus_id"]]} for hit in found] if return_documents else found


def plain_checkpoint(encoder: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Its config.json, and the weights beside it, which may hold a head too; none where it was not read from a file."""
    config, folder = {"model_type": encoder.model_type} | asdict(encoder.config), encoder.adapter or encoder.folder
    return (config | read_optional(folder / "config.json"), read_weights(folder)) if folder else (config, {})
