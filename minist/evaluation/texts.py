"""Evaluators of translations, of what a teacher says of them, of classes and of duplicates; and of several at once."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from minist.checks import number
from minist.data.rows import Place, check_number, check_text
from minist.evaluation.base import Dim, Evaluator, Metrics, Pair, Texts, check_lengths, mean_figures
from minist.evaluation.cross_encoder_pairs import CrossEncoderClassificationEvaluator, Labels, class_numbers
from minist.evaluation.metrics import average_precision, best_f1
from minist.models import open_model
from minist.retrieval.paraphrases import paraphrase_pairs
from minist.retrieval.search import search
from minist.similarity import dense_blocks


class TranslationEvaluator(Evaluator):
    """Metrics `{name}_src2trg_accuracy`, `{name}_trg2src_accuracy`, `{name}_mean_accuracy`: how often is the nearest
    text of the other side, by cosine, the one in the same row, or equal to it?"""

    columns, arguments = ("source", "target"), ("source_sentences", "target_sentences")

    def __init__(
        self, source_sentences: Texts, target_sentences: Texts, name: str = "", truncate_dim: Dim = None, note: str = ""
    ) -> None:
        super().__init__(name, note, None, truncate_dim)
        check_lengths(source_sentences, ("target sentences", target_sentences))
        self.sides = {"src2trg": source_sentences, "trg2src": target_sentences}

    def __call__(self, model: Any) -> Metrics:
        sides = [(texts, self.embed(model, texts)) for texts in self.sides.values()]
        found = {}
        for way, (_, queries), (texts, documents) in zip(self.sides, sides, sides[::-1], strict=True):
            nearest = search(queries, documents, 1)[1][:, 0].tolist()
            right = [texts[i] == text for i, text in zip(nearest, texts, strict=True)]
            found[f"{way}_accuracy"] = sum(right) / len(right)
        mean = {"mean_accuracy": sum(found.values()) / 2}
        return self.named(found | mean | mean_figures(*(x for _, x in sides)), "mean_accuracy")


class MSEEvaluator(Evaluator):
    """Metric `{name}_negative_mse`: -100 times the mean squared difference of a number in the student's embedding of a
    target sentence and in the teacher's of its source sentence."""

    columns, arguments = ("source", "target"), ("source_sentences", "target_sentences")

    def __init__(
        self, source_sentences: Texts, target_sentences: Texts, teacher_model: Any, name: str = "",
        truncate_dim: Dim = None, note: str = "",
    ) -> None:  # fmt: skip
        """`teacher_model` is a model, or its folder or name."""
        super().__init__(name, note, None, truncate_dim)
        check_lengths(source_sentences, ("target sentences", target_sentences))
        teacher = open_model(teacher_model) if isinstance(teacher_model, str) else teacher_model
        self.target_sentences, self.wanted = target_sentences, self.embed(teacher, source_sentences)

    def __call__(self, model: Any) -> Metrics:
        found, total = self.embed(model, self.target_sentences), 0.0
        if found.shape != self.wanted.shape:
            raise ValueError(f"the teacher's embeddings have {self.wanted.shape[1]} numbers, these {found.shape[1]}")
        for student, teacher in zip(dense_blocks(found), dense_blocks(self.wanted), strict=True):
            total += (student - teacher).double().square().sum().item()
        return self.named({"negative_mse": -100 * total / found.numel()} | mean_figures(found), "negative_mse")


class LabelAccuracyEvaluator(Evaluator):
    """Metric `{name}_accuracy`: how often is the class that a SoftmaxLoss finds most likely for a pair its label?"""

    columns, of_rows = CrossEncoderClassificationEvaluator.columns, CrossEncoderClassificationEvaluator.of_rows

    def __init__(
        self, sentence_pairs: Sequence[Pair], labels: Labels, softmax_model: Any, name: str = "", classes: Texts = (),
        note: str = "",
    ) -> None:  # fmt: skip
        """`softmax_model` is the loss that was trained with the model; in a config the name of its [[data]] entry.
        `classes` are the names that labels may have, in the order of their numbers."""
        super().__init__(name, note)
        check_lengths(sentence_pairs, ("labels", labels))
        numbers = class_numbers(labels, dict(enumerate(classes)), softmax_model.num_labels)
        self.pairs, self.labels, self.loss = sentence_pairs, torch.from_numpy(numbers), softmax_model

    @torch.no_grad()
    def __call__(self, model: Any) -> Metrics:
        device = next(self.loss.parameters()).device
        sides = [dense_blocks(self.embed(model, texts)) for texts in zip(*self.pairs, strict=True)]
        logits = torch.cat([self.loss.logits(*(x.to(device) for x in block)) for block in zip(*sides, strict=True)])
        right = (logits.argmax(1).cpu() == self.labels).double().mean().item()
        return self.named({"accuracy": np.nan if logits.isnan().any() else right}, "accuracy")


class ParaphraseMiningEvaluator(Evaluator):
    """Are duplicates among all pairs of some texts the most similar ones? Metrics `{name}_average_precision`, and at
    the best threshold `{name}_f1`, `{name}_precision`, `{name}_recall`, `{name}_threshold`. Recall is of all
    duplicates, also those that the search did not come to."""

    columns = ("text1", "text2", "label (optional)")

    def __init__(
        self, sentences_map: Mapping[str, str], duplicates_list: Iterable[tuple[str, str]],
        add_transitive_closure: bool = False, query_chunk_size: int = 5000, corpus_chunk_size: int = 100000,
        max_pairs: int = 500000, top_k: int = 100, name: str = "", truncate_dim: Dim = None, note: str = "",
    ) -> None:  # fmt: skip
        """Texts by id, and pairs of ids of those that say the same. With `add_transitive_closure` what is a duplicate
        of a duplicate is one too. The other numbers are those of the search, see paraphrases.py."""
        super().__init__(name, note, None, truncate_dim)
        numbers = {key: i for i, key in enumerate(sentences_map)}
        known = [(numbers[a], numbers[b]) for a, b in duplicates_list if a in numbers and b in numbers]
        groups: dict[int, list[int]] = defaultdict(list)  # of each text those that say the same
        for a, b in known if add_transitive_closure else ():
            one, other = groups[a] or [a], groups[b] or [b]
            joined = one if one is other else list(dict.fromkeys(one + other))
            groups |= dict.fromkeys(joined, joined)
        known += [(a, b) for a, group in groups.items() for b in group if a != b]
        self.duplicates = {(min(pair), max(pair)) for pair in known}
        self.texts, self.limits = list(sentences_map.values()), (top_k, max_pairs, query_chunk_size, corpus_chunk_size)
        number("number of sentences", len(self.texts), least=2)

    @classmethod
    def of_rows(cls, rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is two duplicates, or of label 0 not. Equal texts are one."""
        texts, pairs = dict[str, str](), list[tuple[str, str]]()
        for place in rows:
            first, second = (check_text(place, column) for column in ("text1", "text2"))
            texts |= {first: first, second: second}
            if "label" not in place.row or check_number(place, "label"):
                pairs.append((first, second))
        return {"sentences_map": texts, "duplicates_list": pairs}

    def __call__(self, model: Any) -> Metrics:
        embeddings = self.embed(model, self.texts)
        if embeddings.is_sparse:
            raise ValueError("ParaphraseMiningEvaluator is for models that give dense embeddings")
        scores, pairs = paraphrase_pairs(embeddings, *self.limits)
        right = np.array([tuple(pair) in self.duplicates for pair in pairs.tolist()])
        given = right, scores.double().numpy(), len(self.duplicates)
        found = best_f1(*given) | {"average_precision": average_precision(*given)}
        found["threshold"] = found.pop("f1_threshold")
        return self.named(found, "average_precision")


class SequentialEvaluator(Evaluator):
    """All metrics of several evaluators, and `sequential_score`, made of their primary ones: the last, by default."""

    def __init__(
        self, evaluators: Iterable[Any], main_score_function: Callable[[list[float]], float] = lambda scores: scores[-1]
    ) -> None:
        super().__init__("")
        self.evaluators, self.main_score_function = list(evaluators), main_score_function

    def __call__(self, model: Any) -> Metrics:
        found = [(evaluator(model), evaluator) for evaluator in self.evaluators]
        scores = [metrics[evaluator.primary_metric] for metrics, evaluator in found]
        merged = {metric: value for metrics, _ in found for metric, value in metrics.items()}
        return self.named(merged | {"sequential_score": self.main_score_function(scores)}, "sequential_score")
