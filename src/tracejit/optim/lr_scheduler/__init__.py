"""PyTorch's ``optim.lr_scheduler``: schedules of the learning rate, plain Python over an optimizer's groups."""

from tracejit.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from tracejit.optim.lr_scheduler.decay import ConstantLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, StepLR
from tracejit.optim.lr_scheduler.plateau import ReduceLROnPlateau
from tracejit.optim.lr_scheduler.schedule import LRScheduler
from tracejit.optim.lr_scheduler.sequence import SequentialLR

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
