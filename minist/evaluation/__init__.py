"""Evaluators, by the names that sentence-transformers gave them, and with its metric names."""

from minist.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator

__all__ = ["EmbeddingSimilarityEvaluator", "InformationRetrievalEvaluator"]
