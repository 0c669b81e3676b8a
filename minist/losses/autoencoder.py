"""DenoisingAutoEncoderLoss: texts without labels, and an embedding from which the text can be written again.

It is of another kind than the other losses. It reads the tokens of the texts, beside their embeddings, and it is a sum
over tokens: so nothing is gathered, and training adds up what each mini-batch of each rank gives, see
training/token_step.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.data.packed import Packed
from minist.losses.base import Loss, check_columns
from minist.modules.decoder import HEADS, Decodable, Decoder


class DenoisingAutoEncoderLoss(Loss):
    """A decoder writes the text from the embedding of a damaged one: TSDAE (Wang et al. 2021, arXiv:2104.06979).

    Columns: damaged text, original text, for instance the same column of a file twice, with `delete_words` for the
    first. No labels. With e the embedding of the damaged text and x_0 .. x_n the tokens of the original:

        loss = mean over all tokens t >= 1 of all originals  -log p(x_t | x_0 .. x_{t-1}, e)

    The decoder knows nothing of the damaged text but e, see decoder.py.
    """

    columns = "damaged text, original text"
    labels = "none"

    def __init__(self, tie_encoder_decoder: bool = True) -> None:
        """`tie_encoder_decoder`: the decoder's layers are the encoder's own. Else it has a copy of them, and learns
        twice as many weights."""
        super().__init__()
        self.tie_encoder_decoder = tie_encoder_decoder
        self.decoder: Decoder | None = None

    def attach(self, encoder: nn.Module, width: int) -> None:
        """Make the decoder: its weights take their shape from the encoder, and from the embeddings' width.

        ValueError for an encoder that cannot be made a decoder.
        """
        if not isinstance(encoder, Decodable):
            raise ValueError(
                f"DenoisingAutoEncoderLoss makes its decoder of the encoder, which must be {', '.join(HEADS)}; "
                f"this model has a {type(encoder).__name__}"
            )
        self.decoder = Decoder(encoder, width, self.tie_encoder_decoder)

    def check(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        """ValueError for columns and labels that it does not take."""
        check_columns(self, embeddings, batch, 2, 2)

    def forward(self, encoder: Decodable, embeddings: Tensor, texts: Packed) -> Tensor:
        """Embeddings [N, D] of damaged texts, and the originals -> scalar, a sum over the `count_written` tokens."""
        assert self.decoder is not None, "call attach first"
        order = texts.lengths.argsort(descending=True, stable=True)  # equal lengths side by side, see attention.py
        texts = texts.take(order).to(embeddings.device)
        so_far, written = texts_so_far(texts)
        scores = self.decoder(encoder, so_far, embeddings[order.to(embeddings.device)])
        if scores.dtype != torch.float64:
            scores = scores.float()
        return F.cross_entropy(scores, written, reduction="sum")


def texts_so_far(texts: Packed) -> tuple[Packed, Tensor]:
    """For every token but the first of its text: what the decoder reads in its place, the token before it; and the
    token itself, [T - N]."""
    is_written = texts.position_ids > 0
    is_read = is_written.roll(-1)  # the token before one that is written
    return Packed.of(texts.input_ids[is_read], (texts.lengths - 1).clamp(min=0)), texts.input_ids[is_written]


def count_written(texts: Packed) -> int:
    """How many tokens the decoder writes."""
    return int((texts.position_ids > 0).sum())
