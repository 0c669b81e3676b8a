"""MaskedLM: an encoder that says which word stands behind a mask (Devlin et al. 2019, arXiv:1810.04805).

texts with masks -> Packed -> encoder [T, D] -> MaskedLMHead, scores of all words for each token

It embeds nothing by itself. It is trained on plain text, see losses/over_tokens.py, and what it has learned of words is
the start of models of all other kinds: what it saves is a plain checkpoint, which each of them opens."""

import warnings

from minist.checks import listing
from minist.encoders.weights import draw
from minist.models.cross_encoder import plain_checkpoint
from minist.models.folder import Content, content_of
from minist.models.stack import Stack
from minist.models.text_model import TextModel
from minist.module import Module
from minist.modules.masked_lm_head import MaskedLMHead


class MaskedLM(TextModel):
    """model = MaskedLM("path/to/bert-base-uncased"); a new head, drawn by torch's seed, comes with a warning."""

    gives = "words"

    @classmethod
    def adapt(cls, content: Content, num_labels: int | None = None) -> Content:
        stack = content.stack
        if stack.router:
            raise ValueError(f"a MaskedLM has one encoder, the model has the routes {listing(stack.paths)}")
        if stack.gives != "words":
            own = next((part for part in stack if isinstance(part, MaskedLMHead)), None)  # a sparse model's
            content = content_of(Stack([stack.reader(), own or words_head(stack.reader())]), content.tokenizer)
        return super().adapt(content, num_labels)


def words_head(encoder: Module) -> MaskedLMHead:
    """The MaskedLMHead in the files of an encoder, or a new one. ValueError for what is no encoder."""
    if not encoder.num_layers:
        raise ValueError(f"{encoder.folder} begins with {encoder.name}: scores of words need an encoder")
    config, weights = plain_checkpoint(encoder)
    head = MaskedLMHead(config)
    if head.is_in(weights):
        return head.fill(weights)
    warnings.warn("the model has a new head that scores words: train it", stacklevel=3)
    # 1: the encoder's words may have been drawn by the seed itself, and `dense` would be the first of them
    draw(head, config["initializer_range"], 1)
    return head
