"""Training objectives, by the names that sentence-transformers gave them."""

from minist.losses.contrastive import MultipleNegativesRankingLoss

__all__ = ["MultipleNegativesRankingLoss"]
