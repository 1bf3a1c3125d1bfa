"""tracejit: PyTorch-style tensors whose hot regions become native programs."""

from math import e, inf, nan, pi

from tracejit import amp, autograd, backends, cuda, data, nn, optim
from tracejit.backends import are_deterministic_algorithms_enabled, use_deterministic_algorithms
from tracejit.devices import device, get_default_device, set_default_device
from tracejit.dtypes import (
    bfloat16,
    bool,
    double,
    dtype,
    finfo,
    float,
    float16,
    float32,
    float64,
    get_default_dtype,
    half,
    iinfo,
    int,
    int8,
    int16,
    int32,
    int64,
    long,
    promote_types,
    set_default_dtype,
    short,
    uint8,
)
from tracejit.runtime.team import get_num_threads, set_num_threads
from tracejit.serialization import load, save
from tracejit.tensor import *  # noqa: F403
from tracejit.tools.explain import explain
from tracejit.tools.profile import profile
from tracejit.trace.compiled import compile

newaxis = None

__version__ = "0.1.0"
