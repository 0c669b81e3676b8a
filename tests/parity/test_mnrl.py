"""MultipleNegativesRankingLoss beside the real one, with every combination of options."""

from itertools import combinations, product

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss as Real
from sentence_transformers.util import cos_sim, dot_score

from minist import Batch
from minist.losses import MultipleNegativesRankingLoss

OTHERS = ("query_to_query", "doc_to_query", "doc_to_doc")
DIRECTIONS = [("query_to_doc", *some) for n in range(4) for some in combinations(OTHERS, n)]
PARTITIONED = [(d, "joint") for d in DIRECTIONS]
PARTITIONED += [(d, "per_direction") for d in DIRECTIONS if set(d) <= {"query_to_doc", "doc_to_query"}]
HARDNESS = [(None, 0.0), ("in_batch_negatives", 9.0), ("hard_negatives", 5.0), ("all_negatives", 2.5)]
SIMILARITIES = {"cosine": (cos_sim, 20.0), "dot": (dot_score, 0.5)}


def random_columns(seed, columns):
    generator = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 12), (2, 40)))
    return [torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(columns)]


@pytest.mark.parametrize("negatives", range(4))
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("directions, mode", PARTITIONED)
def test_value_and_gradients(directions, mode, similarity, negatives):
    real_similarity, scale = SIMILARITIES[similarity]
    for seed, (hardness, strength) in product(range(3), HARDNESS):
        options = {
            "scale": scale,
            "directions": directions,
            "partition_mode": mode,
            "hardness_mode": hardness,
            "hardness_strength": strength,
        }
        columns = random_columns(1000 * negatives + seed, 2 + negatives)
        ours = MultipleNegativesRankingLoss(similarity_fct=similarity, **options)(columns, Batch())
        model = torch.nn.Identity()  # the loss of given embeddings does not use it
        real = Real(model, similarity_fct=real_similarity, **options).compute_loss_from_embeddings(columns, None)
        torch.testing.assert_close(ours, real, atol=1e-5, rtol=1e-5)
        gradients = [torch.autograd.grad(loss, columns, materialize_grads=True) for loss in (ours, real)]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
