"""Optimizers and learning rate schedules.

In: parameters with gradients. Out: updated parameters and state. An optimizer's step is Python numbers first, then
one composite of tensor operations for each group; it knows nothing of kernels, graphs or tracing.
"""

from tracejit.optim import lr_scheduler
from tracejit.optim.adadelta import Adadelta
from tracejit.optim.adagrad import Adagrad
from tracejit.optim.adam import Adam, AdamW
from tracejit.optim.adamax import Adamax
from tracejit.optim.asgd import ASGD
from tracejit.optim.nadam import NAdam
from tracejit.optim.optimizer import Optimizer
from tracejit.optim.radam import RAdam
from tracejit.optim.rmsprop import RMSprop
from tracejit.optim.rprop import Rprop
from tracejit.optim.sgd import SGD

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "lr_scheduler",
]
