"""Evaluators, by the names that sentence-transformers gave them, and with its metric names."""

from minist.evaluation.cross_encoder_pairs import CrossEncoderClassificationEvaluator, CrossEncoderCorrelationEvaluator
from minist.evaluation.cross_encoder_reranking import CrossEncoderNanoBEIREvaluator, CrossEncoderRerankingEvaluator
from minist.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator, ReciprocalRankFusionEvaluator

__all__ = [
    "CrossEncoderClassificationEvaluator",
    "CrossEncoderCorrelationEvaluator",
    "CrossEncoderNanoBEIREvaluator",
    "CrossEncoderRerankingEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "ReciprocalRankFusionEvaluator",
]
