"""The engine's real device: a base model with slots behind mlx-lm's ``BatchGenerator``, unpatched. Imports mlx.

Made, used and closed on the engine thread alone: MLX streams belong to the thread that made them.
"""

import math
from collections.abc import Sequence

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from base_model.load import load_base, projections
from errors import AdapterRefused
from prompt_format.adapter_check import CheckedAdapter
from prompt_format.chat_template import ChatTemplate
from prompt_format.probe import PROBE_TOLERANCE, probe_prompt
from service.engine import BaseFacts, Row, Token
from service.sampling import make_processors, make_sampler
from service.slots import BASE_SLOT, RoutedModel

PREFILL_STEP = 256  # the longest stall of rows that decode, and the grain of a cancellation


class MlxDevice:
    """A base model in memory with *slots* adapter slots of *rank*, decoding up to *rows* rows at once."""

    def __init__(self, model: str, slots: int, rank: int, rows: int):
        base = load_base(model)
        template = ChatTemplate(base.tokenizer)
        shapes = projections(base.model)
        self.facts = BaseFacts(
            base.name, base.fingerprint, template, shapes, len(base.model.layers), base.context, slots, rank
        )
        self._routed = RoutedModel(base.model, slots + 1, rank)
        base.model.eval()
        self._stop_ids = sorted(template.stop_ids)
        self._generator = BatchGenerator(
            self._routed,
            stop_tokens=[[i] for i in self._stop_ids],
            completion_batch_size=rows,
            prefill_batch_size=min(4, rows),
            prefill_step_size=PREFILL_STEP,
        )
        self._generator.close()  # gives the wired memory limit back that it took; it goes on working

    def insert(self, row: Row) -> int:
        """Put a row into the batch; returns its key."""
        keys = self._generator.insert(
            [list(row.ids)],
            max_tokens=[row.max_tokens],
            caches=[self._routed.make_cache(row.slot)],
            all_tokens=[[]],
            samplers=[make_sampler(row.sampling, row.seed)],
            logits_processors=[make_processors(row.sampling)],
        )
        return int(keys[0])

    def remove(self, keys: Sequence[int]) -> None:
        """Take rows out of the batch."""
        if keys:
            self._generator.remove(list(keys))

    def step(self) -> list[Token]:
        """One turn of prefill and decode: the tokens it gave."""
        _, responses = self._generator.next()
        return [Token(r.uid, int(r.token), float(r.logprobs[r.token].item()), r.finish_reason) for r in responses]

    def stage(self, slot: int, adapter: CheckedAdapter) -> None:
        """Write *adapter* into *slot* and probe it; on any refusal the slot is clear again.

        Raises:
            AdapterRefused: ``config_invalid`` (rank), ``probe_not_finite``, ``probe_is_base`` or ``probe_disagrees``.
        """
        if adapter.rank > self.facts.rank:
            raise AdapterRefused(
                f"rank {adapter.rank} is above this service's {self.facts.rank}: start it with --rank {adapter.rank}",
                code="config_invalid",
            )
        self._routed.write(slot, adapter.weights, adapter.scale, adapter.modules, adapter.dora)
        try:
            self._probe(slot, adapter)
        except AdapterRefused:
            self._routed.clear(slot)
            raise

    def clear(self, slot: int) -> None:
        """Make *slot* the base."""
        self._routed.clear(slot)

    def close(self) -> None:
        """The thread's last act: without it the process can abort at exit."""
        del self._generator, self._routed
        mx.synchronize()
        mx.clear_streams()

    def _probe(self, slot: int, adapter: CheckedAdapter) -> None:
        ids = probe_prompt(adapter.format)
        expected = adapter.manifest.probe
        count = max(len(expected), 1)
        found = self._routed.logits_after(ids, slot, count)
        if not all(math.isfinite(value) for value in found):
            raise AdapterRefused("with this adapter the model gives no finite logits", code="probe_not_finite")
        if found == self._routed.logits_after(ids, BASE_SLOT, count):
            raise AdapterRefused("with this adapter the model answers exactly as the base", code="probe_is_base")
        far = [abs(a - b) for a, b in zip(found, expected, strict=False)]
        if far and max(far) > PROBE_TOLERANCE:
            raise AdapterRefused(
                f"logits differ by {max(far):.3f} from the trainer's: the weights do not do what was trained",
                code="probe_disagrees",
            )
