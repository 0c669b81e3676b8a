"""Losses for plain texts without labels: two copies of the model shall agree on a text and differ on others.

Contrastive tension (Carlsson et al. 2021, openreview.net/forum?id=Ov_sMNau-PF). The two copies are two routes of one
model, one per column; after training one of them is kept.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import number
from minist.losses.base import Loss, check_columns
from minist.losses.pairs import is_binary, labelled_pairs
from minist.similarity import pairwise_dot, similarity


class ContrastiveTensionLoss(Loss):
    """Whether two texts are the same one, told from the embeddings by two copies of the model.

    Columns: a text for the first copy, a text for the second. Labels [rows], y: 1 if both are the same text, else 0
    (the paper takes seven such pairs for each of the same). With p_i = sigmoid(u_i . v_i):
        loss = sum_i  -y_i log p_i - (1 - y_i) log(1 - p_i)
    """

    columns = "two texts, one for each copy of the model"
    labels = "0 or 1 [rows], 1 for the same text"

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        u, v, labels = labelled_pairs(self, embeddings, batch, is_binary)
        return F.binary_cross_entropy_with_logits(
            pairwise_dot(u, v), labels, reduction="sum"
        )  # log(sigmoid(-1000)) is log(0)


class ContrastiveTensionLossInBatchNegatives(Loss):
    """A text's embeddings by two copies of the model shall find each other among all texts of the batch.

    Columns: the text for the first copy and the same text for the second; or one column, where both are the same
    embeddings. No labels. With s_ij = t * sim(u_i, v_j), where t is a parameter of the loss that starts at `scale`:
        loss = 1/2 mean_i [ log sum_j exp(s_ij) - s_ii ]  +  1/2 mean_j [ log sum_i exp(s_ij) - s_jj ]
    """

    columns = "a text, once or once for each copy of the model"

    def __init__(self, scale: float = 20.0, similarity_fct: str = "cosine") -> None:
        super().__init__()
        self.similarity_fct = similarity(similarity_fct)
        start = math.log(number("scale", scale, above=0))  # the logarithm of t, as t must stay positive at any step
        self.logit_scale = nn.Parameter(torch.tensor(start))

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, 1, 2)
        scores = self.similarity_fct(embeddings[0], embeddings[-1]) * self.logit_scale.exp()  # -1: also of one column
        own = torch.arange(len(scores), device=scores.device)  # text i of one copy belongs to text i of the other
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
