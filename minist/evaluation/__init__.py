"""Evaluators, by the names that sentence-transformers gave them, and with its metric names."""

from minist.evaluation.cross_encoder_pairs import CrossEncoderClassificationEvaluator, CrossEncoderCorrelationEvaluator
from minist.evaluation.embedding_pairs import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    TripletEvaluator,
)
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator
from minist.evaluation.nano_beir import CrossEncoderNanoBEIREvaluator, NanoBEIREvaluator
from minist.evaluation.reranking import (
    CrossEncoderRerankingEvaluator,
    ReciprocalRankFusionEvaluator,
    RerankingEvaluator,
)
from minist.evaluation.texts import (
    LabelAccuracyEvaluator,
    MSEEvaluator,
    ParaphraseMiningEvaluator,
    SequentialEvaluator,
    TranslationEvaluator,
)

__all__ = [
    "BinaryClassificationEvaluator",
    "CrossEncoderClassificationEvaluator",
    "CrossEncoderCorrelationEvaluator",
    "CrossEncoderNanoBEIREvaluator",
    "CrossEncoderRerankingEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "LabelAccuracyEvaluator",
    "MSEEvaluator",
    "NanoBEIREvaluator",
    "ParaphraseMiningEvaluator",
    "ReciprocalRankFusionEvaluator",
    "RerankingEvaluator",
    "SequentialEvaluator",
    "TranslationEvaluator",
    "TripletEvaluator",
]
