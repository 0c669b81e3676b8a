"""The encoders by the model_type of their config.json."""

from typing import Any

from minist.encoders.bert import BertConfig, BertEncoder
from minist.encoders.distilbert import DistilBertConfig, DistilBertEncoder
from minist.encoders.modernbert import ModernBertConfig, ModernBertEncoder
from minist.encoders.mpnet import MPNetConfig, MPNetEncoder
from minist.encoders.roberta import RobertaConfig, RobertaEncoder, XLMRobertaEncoder

Encoder = BertEncoder | MPNetEncoder | RobertaEncoder | DistilBertEncoder | ModernBertEncoder  # XLM-R is a RoBERTa

# model_type -> (its config, its encoder)
ENCODERS: dict[str, tuple[Any, Any]] = {
    "bert": (BertConfig, BertEncoder),
    "mpnet": (MPNetConfig, MPNetEncoder),
    "roberta": (RobertaConfig, RobertaEncoder),
    "xlm-roberta": (RobertaConfig, XLMRobertaEncoder),
    "distilbert": (DistilBertConfig, DistilBertEncoder),
    "modernbert": (ModernBertConfig, ModernBertEncoder),
}
