"""Optimizers and learning rate schedules.

In: parameters with gradients. Out: updated parameters and state. An optimizer's step is Python numbers first, then
one composite of tensor operations for each group; it knows nothing of kernels, graphs or tracing.
"""

from tracejit.optim import lr_scheduler
from tracejit.optim.adagrad import Adagrad
from tracejit.optim.adam import Adam, AdamW
from tracejit.optim.optimizer import Optimizer
from tracejit.optim.rmsprop import RMSprop
from tracejit.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
