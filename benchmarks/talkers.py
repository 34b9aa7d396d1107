"""Clients that talk without pause, each token with its time, and what is to be said of what they heard."""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from threading import Event
from time import perf_counter
from typing import Any

from benchmarks.http_client import Client, Refusal
from benchmarks.known_replies import Known
from benchmarks.reloads import Live

Json = dict[str, Any]


@dataclass
class Heard:
    """A reply.

    Attributes:
        thread: Number of what was asked.
        asked, ended: Of perf_counter.
        answer: The last event; None where the reply failed.
        text: All that came before it, put together.
        gaps_ms: Between two tokens.
        failure: Status and code, or the kind of error.
    """

    thread: int
    name: str
    asked: float
    ended: float = 0.0
    answer: Json | None = None
    text: str = ""
    gaps_ms: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def generation(self) -> str | None:
        return self.answer["adapter"]["generation"] if self.answer else None


def talk(
    port: int, known: Sequence[Known], names: Sequence[str], clients: int, max_tokens: int, stop: Event, seed: int
) -> list[Heard]:
    """All that *clients* heard until *stop*: each asks one thread after the other, of any of *names*, in streams."""

    def work(number: int) -> list[Heard]:
        pick, heard = random.Random(f"{seed} {number}"), []
        with Client(port) as client:
            while not stop.is_set():
                thread = pick.randrange(len(known))
                heard.append(_ask(client, known[thread], thread, pick.choice(names), max_tokens))
        return heard

    with ThreadPoolExecutor(clients) as pool:
        return [reply for each in pool.map(work, range(clients)) for reply in each]


def _ask(client: Client, known: Known, thread: int, name: str, max_tokens: int) -> Heard:
    body = {
        "messages": known.messages, "adapter": name, "max_tokens": max_tokens, "temperature": 0.0, "stream": True,
    }  # fmt: skip
    heard, last = Heard(thread, name, perf_counter()), 0.0
    try:
        for seconds, event, data in client.stream("/reply", body):
            _take(heard, event, json.loads(data), 1000 * (seconds - last) if last else None)
            last = seconds
    except Refusal as refusal:
        heard.failure = f"{refusal.status} {refusal.error_code}"
    except (OSError, HTTPException) as error:
        heard.failure = type(error).__name__
    if heard.answer is None and not heard.failure:
        heard.failure = "the answer ended without its last event"
    heard.ended = perf_counter()
    return heard


def _take(heard: Heard, event: str, data: Json, gap_ms: float | None) -> None:
    if event == "token":
        heard.text += data["text"]
        if gap_ms is not None:
            heard.gaps_ms.append(gap_ms)
    elif event == "done":
        heard.answer = data
    else:
        heard.failure = str(data["error"]["code"])


def verdicts(heard: Sequence[Heard], known: Sequence[Known], live: Sequence[Live]) -> Counter[str]:
    """How many replies are right and, for each way in which one can be wrong, how many are."""
    spans = _spans(live)
    return Counter(_verdict(reply, known[reply.thread].replies, spans) for reply in heard)


def _verdict(
    reply: Heard, replies: Mapping[tuple[str, str], str], spans: Mapping[tuple[str, str], list[tuple[float, float]]]
) -> str:
    if reply.failure or reply.answer is None:
        return f"failed: {reply.failure}"
    name, generation = reply.answer["adapter"]["name"], str(reply.generation)
    if name != reply.name or (name, generation) not in replies:
        return "of a generation that must not answer"
    if reply.answer["reply"] != replies[name, generation]:
        return "mixed: not the reply of the generation it names"
    if reply.text != reply.answer["reply"]:
        return "mixed: the stream is not the reply"
    if not any(begin <= reply.ended and reply.asked <= end for begin, end in spans[name, generation]):
        return "stale: of a generation that did not answer then"
    return "right"


def _spans(live: Sequence[Live]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(name, generation) -> when it may have answered: from when it was asked for until the next one was there."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number, one in enumerate(live):
        end = next((other.answered for other in live[number + 1 :] if other.name == one.name), float("inf"))
        found.setdefault((one.name, one.generation), []).append((one.asked, end))
    return found
