"""Functions of neural networks over tensors, with PyTorch's names.

In: tensors and numbers. Out: tensors. A function of several operations is a composite, so that a compiled region
matches it as one unit; numbers that may change from call to call are operands of its operations.
Must not know: modules, parameters.
"""

# ruff: noqa: F401 - the names are the package's interface
from tracejit.tensor.arithmetic import sigmoid, tanh
from tracejit.tensor.functional.activation import (
    celu,
    elu,
    gelu,
    glu,
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    silu,
    softmax,
    softmin,
    softplus,
    softshrink,
    softsign,
    tanhshrink,
    threshold,
)
from tracejit.tensor.functional.attention import scaled_dot_product_attention
from tracejit.tensor.functional.convolution import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from tracejit.tensor.functional.distance import (
    cosine_similarity,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    pairwise_distance,
    smooth_l1_loss,
)
from tracejit.tensor.functional.dropout import alpha_dropout, dropout, dropout1d, dropout2d, dropout3d, feature_dropout
from tracejit.tensor.functional.folding import fold, unfold
from tracejit.tensor.functional.gumbel import gumbel_softmax
from tracejit.tensor.functional.likelihood import gaussian_nll_loss, poisson_nll_loss
from tracejit.tensor.functional.linear import bilinear, embedding, linear, one_hot
from tracejit.tensor.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    nll_loss,
)
from tracejit.tensor.functional.margin import (
    cosine_embedding_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_soft_margin_loss,
    soft_margin_loss,
    triplet_margin_loss,
)
from tracejit.tensor.functional.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    local_response_norm,
    normalize,
    rms_norm,
)
from tracejit.tensor.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)
from tracejit.tensor.functional.resizing import interpolate
from tracejit.tensor.functional.shuffling import channel_shuffle, pixel_shuffle, pixel_unshuffle
from tracejit.tensor.padding import pad
