"""One row's sampler, its draws independent of what else is in the batch. Imports mlx."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler, make_logits_processors

from service.choice import Sampling


class SeededSampler:
    """Draws with a key of its own: logprobs (1, vocab) -> token (1,)."""

    def __init__(self, sampling: Sampling, seed: int):
        self.sampling, self.key = sampling, mx.random.key(seed)

    def __call__(self, logprobs: mx.array) -> mx.array:
        self.key, step = mx.random.split(self.key)
        s = self.sampling
        if 0 < s.top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, s.top_k)
        if s.top_p < 1:
            logprobs = apply_top_p(logprobs, s.top_p)
        if s.min_p > 0:
            logprobs = apply_min_p(logprobs, s.min_p)
        return mx.random.categorical(logprobs * (1 / s.temperature), axis=-1, key=step)


def make_sampler(sampling: Sampling, seed: int) -> Callable[[mx.array], mx.array]:
    """Greedy at temperature 0 or next to it, where all rows share one sampler; else one with *seed* as its own."""
    if sampling.temperature < 1e-6:  # dividing by less would leave the range of float32
        greedy: Callable[[mx.array], mx.array] = greedy_sampler
        return greedy
    return SeededSampler(sampling, seed)


def make_processors(sampling: Sampling) -> list[Any]:
    """Logits processors: the repetition penalty, where one is asked for."""
    if sampling.repetition_penalty == 1.0:
        return []
    return list(make_logits_processors(repetition_penalty=sampling.repetition_penalty))
