"""Evaluators, by the names that sentence-transformers gave them, and with its metric names."""
# ruff: noqa: F401, I001 - the imports are what this file is for, and one line has several

from minist.evaluation.cross_encoder_pairs import CrossEncoderClassificationEvaluator, CrossEncoderCorrelationEvaluator
from minist.evaluation.embedding_pairs import BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator
from minist.evaluation.embedding_pairs import TripletEvaluator
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator
from minist.evaluation.nano_beir import CrossEncoderNanoBEIREvaluator, NanoBEIREvaluator
from minist.evaluation.reranking import CrossEncoderRerankingEvaluator, RerankingEvaluator
from minist.evaluation.reranking import ReciprocalRankFusionEvaluator
from minist.evaluation.texts import LabelAccuracyEvaluator, MSEEvaluator, ParaphraseMiningEvaluator
from minist.evaluation.texts import SequentialEvaluator, TranslationEvaluator

__all__ = sorted(name for name, found in globals().items() if isinstance(found, type))
