"""Training objectives, by the names that sentence-transformers gave them."""
# ruff: noqa: F401, I001 - the imports are what this file is for, and one line has several

from minist.losses.adaptive_layer import AdaptiveLayerLoss, Matryoshka2dLoss
from minist.losses.contrastive import MultipleNegativesRankingLoss, MultipleNegativesSymmetricRankingLoss
from minist.losses.distillation import DistillKLDivLoss, EmbedDistillLoss, MarginMSELoss, MSELoss
from minist.losses.guided import GISTEmbedLoss
from minist.losses.matryoshka import MatryoshkaLoss
from minist.losses.over_tokens import DenoisingAutoEncoderLoss
from minist.losses.pairs import AnglELoss, ContrastiveLoss, CoSENTLoss
from minist.losses.pairs import CosineSimilarityLoss, OnlineContrastiveLoss, SoftmaxLoss
from minist.losses.sparse import CSRLoss, CSRReconstructionLoss, FlopsLoss, IDFFlopsLoss, SparseAnglELoss
from minist.losses.sparse import SparseCosineSimilarityLoss, SparseDistillKLDivLoss, SparseMarginMSELoss, SparseMSELoss
from minist.losses.sparse import SparseCoSENTLoss, SparseMultipleNegativesRankingLoss, SparseTripletLoss, SpladeLoss
from minist.losses.triplets import BatchAllTripletLoss, BatchHardSoftMarginTripletLoss, BatchHardTripletLoss
from minist.losses.triplets import BatchSemiHardTripletLoss, MegaBatchMarginLoss, TripletLoss
from minist.losses.unsupervised import ContrastiveTensionLoss, ContrastiveTensionLossInBatchNegatives
from minist.losses.unsupervised import GlobalOrthogonalRegularizationLoss
from minist.losses.wrapper import WeightedSumLoss

__all__ = sorted(name for name, found in globals().items() if callable(found))  # Sparse.. are functions
