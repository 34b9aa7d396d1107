"""The rows that are being written: one forward pass a step for all of them, each under its own slot. Imports mlx.

mlx-lm's row caches hold their states and its ``merge``, ``extend``, ``filter`` and ``extract`` move them; a row joins
with its first token already chosen, so that it costs no pass of its own, and leaves before the next pass, not after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from service.engine import Token
from service.prefix_cache import RowCache
from service.sampling import Chooser
from service.slots import RoutedModel


@dataclass
class Row:
    """One reply being written.

    Attributes:
        left: How many tokens it may still have, the one already chosen included.
        keep: Called at its end with its cache and the tokens in there beyond the prompt.
    """

    key: int
    slot: int
    left: int
    chooser: Chooser
    keep: Callable[[RowCache, list[int]], None] | None = None
    tokens: list[int] = field(default_factory=list)


class Decoding:
    """A batch of rows.

    Args:
        ahead: Whether the next pass is begun before this one's tokens are read. On a GPU that hides the time in which
            Python prepares it; on a CPU there is nothing to hide, and every row that ends costs a pass for nothing.
    """

    def __init__(self, model: RoutedModel, stop_ids: frozenset[int], ahead: bool):
        self.model, self.ahead, self._stop_ids = model, ahead, stop_ids
        self.rows: list[Row] = []
        self._cache: RowCache = []
        self._merged = False  # a single row goes on with the cache of its prefill, which costs less
        self._tokens = self._logprobs = mx.zeros((0,))  # chosen last, and not fed yet
        self._told = False  # whether these have been given to whoever waits for them

    def join(self, rows: Sequence[Row], cache: RowCache, tokens: mx.array, logprobs: mx.array) -> None:
        """Add *rows* that share a prompt, whose state *cache* is: a row's own, not a batch's; it is used up.

        Args:
            tokens: (rows,) the first token of each, already chosen.
            logprobs: (rows,) theirs.
        """
        if self.rows and self._told:
            self._forward()
        if not self.rows and len(rows) == 1:
            self._cache, self._merged = cache, False
            self._tokens, self._logprobs = tokens, logprobs
        else:
            self._merge()
            new = [type(part).merge([part] * len(rows)) for part in cache]
            if self.rows:
                for part, other in zip(self._cache, new, strict=True):
                    part.extend(other)
                self._tokens = mx.concatenate([self._tokens, tokens])
                self._logprobs = mx.concatenate([self._logprobs, logprobs])
            else:
                self._cache, self._tokens, self._logprobs = new, tokens, logprobs
            self._merged = True
        self.rows += rows
        self._told = False

    def _merge(self) -> None:
        if self.rows and not self._merged:
            self._cache = [type(part).merge([part]) for part in self._cache]

    def step(self) -> list[Token]:
        """One token of each row; those that ended are gone afterwards."""
        if self._told and self.rows:
            self._forward()
        now = self._tokens, self._logprobs
        if self.ahead and self.rows:
            self._forward()
        given: list[Token] = []
        staying: list[int] = []
        tokens: list[int] = now[0].tolist()  # type: ignore[assignment]
        logprobs: list[float] = now[1].tolist()  # type: ignore[assignment]
        for place, (row, token, logprob) in enumerate(zip(self.rows, tokens, logprobs, strict=True)):
            row.left -= 1
            row.tokens.append(token)
            end = "stop" if token in self._stop_ids else None if row.left else "length"
            given.append(Token(row.key, token, logprob, end))
            if end is None:
                staying.append(place)
            elif row.keep is not None:
                row.keep(self._extract(place), row.tokens if self.ahead else row.tokens[:-1])
        self._filter(staying)
        self._told = not self.ahead  # the next pass begins with the next step: who waits for a token has it before
        return given

    def remove(self, keys: Sequence[int]) -> None:
        """Take rows out, wherever they are."""
        self._filter([place for place, row in enumerate(self.rows) if row.key not in keys])

    def _forward(self) -> None:
        """Begin a pass that feeds each row its token and chooses the next."""
        fed = self._tokens
        logits = self.model.last_logits(fed[:, None], self._cache, [row.slot for row in self.rows])
        self._tokens, self._logprobs = choose([row.chooser for row in self.rows], logits, fed)
        self._told = False
        mx.async_eval(self._tokens, self._logprobs)  # type: ignore[no-untyped-call]

    def _extract(self, place: int) -> RowCache:
        parts = [part.extract(place) for part in self._cache] if self._merged else self._cache
        mx.eval([part.state for part in parts])
        return parts

    def _filter(self, staying: list[int]) -> None:
        if len(staying) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in staying]
        if not staying:
            self._cache, self._tokens, self._logprobs = [], mx.zeros((0,)), mx.zeros((0,))
            return
        for part in self._cache:
            part.filter(staying)
        places = mx.array(staying)
        self._tokens, self._logprobs = self._tokens[places], self._logprobs[places]


def choose(choosers: Sequence[Chooser], logits: mx.array, fed: mx.array | None) -> tuple[mx.array, mx.array]:
    """(tokens, their logprobs), each (rows,), that *choosers* choose from *logits* (rows, vocabulary).

    Args:
        fed: (rows,) the tokens that gave these logits, if they are new to the choosers.
    """
    if any(chooser.penalty for chooser in choosers):
        logits = mx.concatenate(
            [
                chooser.penalised(logits[i : i + 1], None if fed is None else fed[i : i + 1])
                for i, chooser in enumerate(choosers)
            ]
        )
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    if all(chooser.is_greedy for chooser in choosers):
        tokens = mx.argmax(logits, axis=-1)
    else:
        logprobs = logits - total  # of a whole vocabulary, which takes longer than all the rest of this
        tokens = mx.concatenate([chooser(logprobs[i : i + 1]) for i, chooser in enumerate(choosers)])
    return tokens, (mx.take_along_axis(logits, tokens[:, None], axis=-1) - total)[:, 0]
