"""MultiheadAttention and the transformer's encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from tracejit import dtypes
from tracejit.nn import functional as F
from tracejit.nn import init
from tracejit.nn.containers import ModuleList
from tracejit.nn.dropout import Dropout
from tracejit.nn.linear import Linear
from tracejit.nn.module import Module
from tracejit.nn.normalization import LayerNorm
from tracejit.nn.parameter import Parameter
from tracejit.tensor import Tensor, empty, matmul, zeros

__all__ = ["MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer", "activation_of"]


class MultiheadAttention(Module):
    """Attention of several heads over projections of queries, keys and values.

    Shape: ``(L, N, E)``, ``(N, L, E)`` with ``batch_first``, or ``(L, E)``. A mask that is boolean says what to
    leave out; one that is floating is added to the scores. ``attn_mask`` is ``(L, S)`` or ``(N * heads, L, S)``,
    ``key_padding_mask`` is ``(N, S)`` or ``(S)``.
    Raises: NotImplementedError for ``add_bias_kv`` and ``add_zero_attn``.
    Source: Vaswani et al. 2017.

    >>> import tracejit as tj
    >>> x = tj.randn(2, 5, 8)
    >>> out, weights = tj.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> out.shape, weights.shape
    (tracejit.Size([2, 5, 8]), tracejit.Size([2, 5, 5]))
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        if embed_dim % num_heads != 0:
            raise AssertionError("embed_dim must be divisible by num_heads")
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("MultiheadAttention: add_bias_kv and add_zero_attn are not supported")
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        where = {"device": device, "dtype": dtype}
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = Parameter(empty(3 * embed_dim, embed_dim, **where))
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight = Parameter(empty(embed_dim, embed_dim, **where))
            self.k_proj_weight = Parameter(empty(embed_dim, self.kdim, **where))
            self.v_proj_weight = Parameter(empty(embed_dim, self.vdim, **where))
            self.register_parameter("in_proj_weight", None)
        if bias:
            self.in_proj_bias = Parameter(empty(3 * embed_dim, **where))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, **where)
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            assert self.out_proj.bias is not None
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = self._check(query, key, value, key_padding_mask, attn_mask)
        if is_causal and attn_mask is None:
            raise RuntimeError(
                "Need attn_mask if specifying the is_causal hint: MultiheadAttention does not make the mask itself"
            )
        projected = self._project(query, key, value)
        # To (N, heads, length, head_dim) from whatever order the caller uses.
        q, k, v = (self._split(x, batched) for x in projected)
        batch, length, source = q.shape[0], q.shape[2], k.shape[2]
        if is_causal and key_padding_mask is None and not need_weights:
            mask = None
        else:
            is_causal = False
            mask = self._mask(attn_mask, key_padding_mask, batch, length, source, q)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = matmul(q * math.sqrt(1.0 / self.head_dim), k.transpose(-2, -1))
            if mask is not None:
                scores = scores + mask
            weights = F.softmax(scores, -1)
            if dropout > 0.0:
                weights = F.dropout(weights, dropout)
            out = matmul(weights, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        if not batched:
            out = out.squeeze(0).transpose(0, 1)
        elif self.batch_first:
            out = out.transpose(1, 2)
        else:
            out = out.permute(2, 0, 1, 3)
        out = self.out_proj(out.reshape(*tuple(out.shape)[:-2], self.embed_dim))
        if weights is not None:
            if average_attn_weights:
                weights = weights.mean(1)
            if not batched:
                weights = weights.squeeze(0)
        return out, weights

    def _check(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
    ) -> bool:
        if query.dim() not in (2, 3):
            raise AssertionError(
                f"query should be unbatched 2D or batched 3D tensor but received {query.dim()}-D query tensor"
            )
        if not query.dim() == key.dim() == value.dim():
            raise AssertionError(
                f"For a {query.dim()}-D query, key and value should be {query.dim()}-D too, "
                f"but found {key.dim()}-D and {value.dim()}-D tensors respectively"
            )
        if query.shape[-1] != self.embed_dim:
            raise AssertionError(f"was expecting embedding dimension of {self.embed_dim}, but got {query.shape[-1]}")
        if tuple(key.shape)[:-1] != tuple(value.shape)[:-1]:
            raise AssertionError(f"key shape {tuple(key.shape)} does not match value shape {tuple(value.shape)}")
        batched = query.dim() == 3
        if key_padding_mask is not None and key_padding_mask.dim() != (2 if batched else 1):
            raise AssertionError(
                f"key_padding_mask should be {2 if batched else 1}-D here but is {key_padding_mask.dim()}-D"
            )
        if attn_mask is not None and attn_mask.dim() not in (2, 3):
            raise AssertionError(f"attn_mask should be 2-D or 3-D but is {attn_mask.dim()}-D")
        return batched

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        size = self.embed_dim
        if self.in_proj_weight is not None:
            weight, bias = self.in_proj_weight, self.in_proj_bias
            if query is key and key is value:
                return F.linear(query, weight, bias).chunk(3, -1)
            biases = (None, None, None) if bias is None else bias.split(size)
            if key is value:
                both = F.linear(key, weight[size:], None if bias is None else bias[size:])
                return (F.linear(query, weight[:size], biases[0]), *both.chunk(2, -1))
            weights = weight.split(size)
        else:
            biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(size)
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return tuple(F.linear(*parts) for parts in zip((query, key, value), weights, biases, strict=True))

    def _split(self, x: Tensor, batched: bool) -> Tensor:
        heads = x.unflatten(-1, (self.num_heads, self.head_dim))
        if not batched:
            return heads.transpose(0, 1).unsqueeze(0)
        return heads.transpose(1, 2) if self.batch_first else heads.permute(1, 2, 0, 3)

    def _mask(
        self,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        batch: int,
        length: int,
        source: int,
        example: Tensor,
    ) -> Tensor | None:
        mask: Tensor | None = None
        if attn_mask is not None:
            shape = (length, source) if attn_mask.dim() == 2 else (batch * self.num_heads, length, source)
            if tuple(attn_mask.shape) != shape:
                raise RuntimeError(
                    f"The shape of the {attn_mask.dim()}D attn_mask is {tuple(attn_mask.shape)}, but should be {shape}."
                )
            mask = _additive("attn_mask", attn_mask, example)
            if mask.dim() == 3:
                mask = mask.unflatten(0, (batch, self.num_heads))
        if key_padding_mask is not None:
            shape = (batch, source)
            padding = key_padding_mask if key_padding_mask.dim() == 2 else key_padding_mask.unsqueeze(0)
            if tuple(padding.shape) != shape:
                raise AssertionError(f"expecting key_padding_mask shape of {shape}, but got {tuple(padding.shape)}")
            padding = _additive("key_padding_mask", padding, example).reshape(batch, 1, 1, source)
            mask = padding if mask is None else mask + padding
        return mask


def _additive(name: str, mask: Tensor, example: Tensor) -> Tensor:
    """A mask to add to scores: a boolean one becomes 0 and minus infinity."""
    if mask.dtype == dtypes.bool:
        return zeros(tuple(mask.shape), dtype=example.dtype, device=example.device).masked_fill(mask, -math.inf)
    if not mask.is_floating_point():
        raise AssertionError(f"only bool and floating types of {name} are supported")
    return mask


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def activation_of(activation: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An activation, which may be given by its name. Raises: RuntimeError for an unknown name."""
    if not isinstance(activation, str):
        return activation
    if activation not in _ACTIVATIONS:
        raise RuntimeError(f"activation should be relu/gelu, not {activation}")
    return _ACTIVATIONS[activation]


class TransformerEncoderLayer(Module):
    """Self-attention and a feedforward network, each with a residual, dropout and layer norm.

    Shape: as ``MultiheadAttention``. Raises: RuntimeError for an activation by an unknown name.
    Source: Vaswani et al. 2017; ``norm_first`` as Xiong et al. 2020.

    >>> import tracejit as tj
    >>> tj.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(tj.randn(2, 5, 8)).shape
    tracejit.Size([2, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout=dropout, bias=bias, batch_first=batch_first, **where
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, **where)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **where)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = activation_of(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if self.norm_first:
            src = src + self._attend(self.norm1(src), src_mask, src_key_padding_mask, is_causal)
            return src + self._feed(self.norm2(src))
        src = self.norm1(src + self._attend(src, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(src + self._feed(src))

    def _attend(self, x: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Tensor:
        out, _ = self.self_attn(
            x, x, x, key_padding_mask=padding, need_weights=False, attn_mask=mask, is_causal=is_causal
        )
        return self.dropout1(out)

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerEncoder(Module):
    """Several copies of an encoder layer, one after the other, and a last norm if one is given.

    >>> import tracejit as tj
    >>> layer = tj.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> tj.nn.TransformerEncoder(layer, 2)(tj.randn(2, 5, 8)).shape
    tracejit.Size([2, 5, 8])
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        # The last two steer PyTorch's ragged tensors, which do not change results; they are accepted for its callers.
        super().__init__()
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
        return src if self.norm is None else self.norm(src)
