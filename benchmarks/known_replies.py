"""What plain mlx-lm replies with each generation: what the service must say under load too.

Each reply is written alone, greedily, by mlx-lm's own loop with the adapter loaded by mlx-lm. A thread is used only
where no token of any of its replies was chosen by a hair: rows that are computed together round a little differently
than one alone, and that must not look like another adapter's reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.alone import alone
from benchmarks.reliability_world import SAID, VARIANT
from benchmarks.serving_world import World, formats_of, prepared
from prompt_format.messages import Message, Thread

HAIR = 1e-3  # nats between the best token and the next: more than a hundred times what rounding makes of it
SPARE = 4 / 3  # more threads are tried than wanted

Json = dict[str, Any]
Pair = tuple[str, str]  # name, generation


@dataclass(frozen=True)
class Known:
    """A thread for ``POST /reply``, and the reply that each (name, generation) has for it."""

    messages: list[Json]
    replies: dict[Pair, str]


def known_replies(world: World, wanted: int, max_tokens: int) -> list[Known]:
    """Up to *wanted* threads with the reply of every generation in *world*."""
    threads = [_messages(number) for number in range(round(wanted * SPARE))]
    pairs = [(name, generation) for name, each in world.generations.items() for generation in each]
    form = world.formats[VARIANT]
    prompts = [form.prompt(_thread(messages)).ids for messages in threads]
    written = alone(prepared, write_replies, world.model, world.store, pairs, prompts, max_tokens)
    found = []
    for number, messages in enumerate(threads):
        each = {pair: replies[number] for pair, replies in written.items()}
        if min(margin for _, margin in each.values()) > HAIR:
            found.append(Known(messages, {pair: text for pair, (text, _) in each.items()}))
    return found[:wanted]


def told_apart(known: Sequence[Known]) -> dict[str, int]:
    """Of how many pairs of two generations the replies to a thread differ, of one adapter and of any two."""
    pairs = [
        (one[0] == other[0], thread.replies[one] != thread.replies[other])
        for thread in known
        for number, one in enumerate(thread.replies)
        for other in list(thread.replies)[:number]
    ]
    return {
        "pairs_of_one_adapter": sum(same for same, _ in pairs),
        "of_them_that_differ": sum(same and differs for same, differs in pairs),
        "pairs": len(pairs),
        "of_all_that_differ": sum(differs for _, differs in pairs),
    }


def _messages(number: int) -> list[Json]:
    """One to five messages, the last one not mine; no two numbers have the same."""
    length, begin = 1 + 2 * (number % 3), number % len(SAID)
    texts = [SAID[(begin + place) % len(SAID)] for place in range(length)]
    texts[0] += "!" * (number // len(SAID))
    return [{"text": text, "from_me": place % 2 == 1} for place, text in enumerate(texts)]


def _thread(messages: Sequence[Json]) -> Thread:
    return Thread(tuple(Message(**message) for message in messages))


# -- in a process of its own


def write_replies(
    model: Path, store: Path, pairs: Sequence[Pair], prompts: Sequence[list[int]], max_tokens: int
) -> dict[Pair, list[tuple[str, float]]]:
    """(name, generation) -> for each prompt (the reply as it is shown, the smallest lead of a chosen token)."""
    from mlx_lm.tuner.utils import load_adapters, remove_lora_layers

    from base_model.load import load_base

    plain, form = load_base(str(model)).model, formats_of(model)[VARIANT]
    stop = frozenset(form.template.stop_ids)
    found = {}
    for name, generation in pairs:
        load_adapters(plain, str(store / name / generation))
        plain.eval()
        written = [_write(plain, ids, max_tokens, stop) for ids in prompts]
        found[name, generation] = [("\n".join(form.decode_reply(tokens)), lead) for tokens, lead in written]
        remove_lora_layers(plain)
    return found


def _write(model: Any, ids: list[int], max_tokens: int, stop: frozenset[int]) -> tuple[list[int], float]:
    """(the tokens of the reply without the one that ends it, the smallest lead in nats)."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    tokens: list[int] = []
    least = float("inf")
    for token, logprobs in generate_step(mx.array(ids), model, max_tokens=max_tokens):
        second, best = mx.topk(logprobs, 2).tolist()  # type: ignore[misc, union-attr]
        least = min(least, abs(best - second))
        if int(token) in stop:
            break
        tokens.append(int(token))
    return tokens, least
