"""How one row chooses its tokens, its draws independent of what else is in the batch. Imports mlx."""

from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_logits_processors

from service.choice import Sampling

REMEMBERED = 20  # tokens that a repetition penalty looks back on, as in mlx-lm


class Chooser:
    """Chooses with a key of its own: logprobs (1, vocab) -> token (1,).

    Attributes:
        is_greedy: At temperature 0 or next to it: dividing by less would leave the range of float32.
        penalty: The repetition penalty's logits processor, or None.
    """

    def __init__(self, sampling: Sampling, seed: int, prompt: Sequence[int]):
        self.sampling, self._key = sampling, mx.random.key(seed)
        self.is_greedy = sampling.temperature < 1e-6
        self.penalty = None
        if sampling.repetition_penalty != 1.0:
            (self.penalty,) = make_logits_processors(repetition_penalty=sampling.repetition_penalty)
            self._recent = mx.array(list(prompt[-REMEMBERED:]))

    def penalised(self, logits: mx.array, fed: mx.array | None) -> mx.array:
        """*logits* (1, vocab) less what was just said; *fed* (1,) is the latest token, if it is new."""
        if self.penalty is None:
            return logits
        if fed is not None:
            self._recent = mx.concatenate([self._recent, fed])[-REMEMBERED:]
        less: mx.array = self.penalty(self._recent, logits)
        return less

    def __call__(self, logprobs: mx.array) -> mx.array:
        if self.is_greedy:
            return mx.argmax(logprobs, axis=-1)
        self._key, step = mx.random.split(self._key)
        s = self.sampling
        if 0 < s.top_k < logprobs.shape[-1]:
            logprobs = apply_top_k(logprobs, s.top_k)
        if s.top_p < 1:
            # Probabilities do not add up to one exactly: a very small top_p would leave no token, and so all of them.
            likeliest = logprobs == logprobs.max(axis=-1, keepdims=True)
            logprobs = mx.where(likeliest, logprobs, apply_top_p(logprobs, s.top_p))
        if s.min_p > 0:
            logprobs = apply_min_p(logprobs, s.min_p)
        return mx.random.categorical(logprobs * (1 / s.temperature), axis=-1, key=step)
