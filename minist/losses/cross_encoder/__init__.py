"""Training objectives of cross-encoders, by the names that sentence-transformers gave them."""
# ruff: noqa: F401, I001 - the imports are what this file is for, and one line has several

from minist.losses.cross_encoder.lambda_loss import LambdaLoss, RankNetLoss
from minist.losses.cross_encoder.lambda_loss import LambdaRankScheme, NDCGLoss1Scheme, NDCGLoss2PPScheme
from minist.losses.cross_encoder.lambda_loss import NDCGLoss2Scheme, NoWeightingScheme
from minist.losses.cross_encoder.listwise import ADRMSELoss, ListMLELoss, ListNetLoss
from minist.losses.cross_encoder.listwise import PListMLELambdaWeight, PListMLELoss
from minist.losses.cross_encoder.pairs import BinaryCrossEntropyLoss, CrossEntropyLoss, MarginMSELoss, MSELoss
from minist.losses.cross_encoder.pairs import MultipleNegativesRankingLoss

__all__ = sorted(name for name, found in globals().items() if isinstance(found, type))
