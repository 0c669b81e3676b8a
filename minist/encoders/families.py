"""The encoders by the model_type of their config.json."""

from typing import Any

from torch import Tensor

from minist.checks import pick
from minist.encoders.bert import BertEncoder
from minist.encoders.distilbert import DistilBertEncoder
from minist.encoders.encoder import Encoder
from minist.encoders.modernbert import ModernBertEncoder
from minist.encoders.roberta import MPNetEncoder, RobertaEncoder, XLMRobertaEncoder

FAMILIES = (BertEncoder, MPNetEncoder, RobertaEncoder, XLMRobertaEncoder, DistilBertEncoder, ModernBertEncoder)
ENCODERS: dict[str, type[Encoder]] = {family.model_type: family for family in FAMILIES}


class Transformer(Encoder):
    """What files call any encoder; which of them it is, its config.json says."""

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Encoder:
        return pick("model_type", config.get("model_type"), ENCODERS).from_folder(config, weights)
