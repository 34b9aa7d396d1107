"""The parts of an LFM2 model that MLX's CPU backend computes slowly, in forms that are fast to train with.

``mx.exp`` takes some 25 ns a number on a CPU, one number after the other; it hides in softmax, in SiLU and in the
cross entropy, and took most of a training step. Here it is a polynomial that compiles to vector code, relative error
under 2e-4. Depthwise convolution of width 3 is three shifted products. Parameter names are mlx-lm's own, so what is
trained here loads there. On a GPU none of this is needed: ``train.py`` leaves it out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn


@partial(mx.compile, shapeless=True)
def _exp(x: mx.array) -> mx.array:
    """e**x for -40 <= x <= 0 (below: about 0): the degree-5 Taylor polynomial of x/64, to the 64th power."""
    y = mx.maximum(x, -40.0) * (1 / 64)
    p = 1 + y * (1 + y * (1 / 2 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120)))))
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return partial(mx.compile, shapeless=True)(function)


@_compiled
def _sigmoid(x: mx.array) -> mx.array:
    e = _exp(-mx.abs(x))
    s: mx.array = mx.where(x >= 0, 1.0, e) / (1 + e)
    return s


@_compiled
def _swiglu_gradients(gate: mx.array, x: mx.array, dy: mx.array) -> tuple[mx.array, mx.array]:
    s = _sigmoid(gate)
    d_gate: mx.array = dy * x * s * (1 + gate * (1 - s))
    return d_gate, dy * gate * s


@mx.custom_function
def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """silu(gate) * x."""
    y: mx.array = gate * _sigmoid(gate) * x
    return y


@swiglu.vjp
def _swiglu_vjp(primals: Any, dy: mx.array, _: mx.array) -> Any:
    return _swiglu_gradients(*primals, dy)


@mx.custom_function
def softmax(x: mx.array) -> mx.array:
    """Over the last axis."""
    p = _exp(x - x.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


@softmax.vjp
def _softmax_vjp(_: Any, dy: mx.array, p: mx.array) -> mx.array:
    return p * (dy - (dy * p).sum(axis=-1, keepdims=True))


@mx.custom_function
def _cross_entropy(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    highest = logits.max(axis=-1, keepdims=True)
    p = _exp(logits - highest)
    z = p.sum(axis=-1, keepdims=True)
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (mx.log(z) + highest - right)[:, 0], p, z


@_cross_entropy.vjp
def _cross_entropy_vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    logits, targets = primals
    _, p, z = outputs
    d = (cotangents[0][:, None] / z) * p
    rows = mx.arange(targets.shape[0])
    d = d.at[rows, targets].add(-cotangents[0])
    return d, mx.zeros_like(targets)


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Loss of each row: logits (N, vocab) float32, targets (N,) int32 -> (N,)."""
    loss: mx.array = cast(Any, _cross_entropy(logits, targets))[0]
    return loss


class ShiftConv(nn.Module):
    """The depthwise convolution of mlx-lm's ShortConv: weight (channels, width, 1), input padded by the caller."""

    def __init__(self, weight: mx.array):
        super().__init__()
        self.weight = weight

    def __call__(self, x: mx.array) -> mx.array:
        width = self.weight.shape[1]
        tokens = x.shape[1] - width + 1
        total = x[:, :tokens] * self.weight[:, 0, 0]
        for shift in range(1, width):
            total = total + x[:, shift : shift + tokens] * self.weight[:, shift, 0]
        return total


class FastMLP(nn.Module):
    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.w1, self.w2, self.w3 = mlp.w1, mlp.w2, mlp.w3

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.w2(swiglu(self.w1(x), self.w3(x)))
        return y


class FastAttention(nn.Module):
    """Causal attention over a whole sequence, no cache."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj", "q_layernorm", "k_layernorm"):
            setattr(self, name, getattr(attention, name))
        self._rope = attention.rope
        self._heads, self._kv_heads, self._scale = attention.n_heads, attention.n_kv_heads, attention.scale

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        rows, tokens, _ = x.shape
        groups = self._heads // self._kv_heads
        q = self.q_layernorm(self.q_proj(x).reshape(rows, tokens, self._heads, -1)).transpose(0, 2, 1, 3)
        k = self.k_layernorm(self.k_proj(x).reshape(rows, tokens, self._kv_heads, -1)).transpose(0, 2, 1, 3)
        v = self.v_proj(x).reshape(rows, tokens, self._kv_heads, -1).transpose(0, 2, 1, 3)
        q, k = self._rope(q) * self._scale, self._rope(k)
        q = q.reshape(rows, self._kv_heads, groups, tokens, -1)
        scores = q @ k[:, :, None].swapaxes(-1, -2)
        causal = mx.triu(mx.full((tokens, tokens), -1e9), k=1)
        y = softmax(scores + causal) @ v[:, :, None]
        y = y.reshape(rows, self._heads, tokens, -1).transpose(0, 2, 1, 3).reshape(rows, tokens, -1)
        out: mx.array = self.out_proj(y)
        return out


def make_fast(model: Any) -> None:
    """Replace the slow parts of an mlx-lm LFM2 model in place; parameters and their names stay."""
    for layer in model.layers:
        layer.feed_forward = FastMLP(layer.feed_forward)
        if layer.is_attention_layer:
            layer.self_attn = FastAttention(layer.self_attn)
        else:
            layer.conv.conv = ShiftConv(layer.conv.conv.weight)
