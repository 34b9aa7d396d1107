"""One round of the serving benchmark: what both servers are asked, and what came of it.

``serve_speed`` says what is measured and why.
"""

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Barrier
from time import perf_counter, sleep
from typing import Protocol

from benchmarks.example import OURS, THEIRS
from benchmarks.http_client import Answer, Client
from benchmarks.mlx_lm_server import MlxLmServer, mlx_lm_server
from benchmarks.own_server import OwnServer, own_server
from benchmarks.serving_world import RETRAINED, Question, World

CLIENTS, BUSY = 8, ("voice-1", "voice-2", "voice-3", "voice-4")
THREADS = {"raw_style_variable": "voice-1", "turns": "turns"}  # variant -> the adapter that is asked
MESSAGES = 12
PAUSE_S = 0.5  # between two requests of a thread: people read and write, though more slowly
LIVE = ("verify", "read", "stage", "probe", "cutover")


@dataclass(frozen=True)
class Case:
    """A base to serve.

    Attributes:
        rows_base: The base that ours alone decodes with: one whose rows do not end.
        rounds: Pairs of processes, one of each server.
        threads: That grow, of each variant, a round.
        requests: Of each client, a round.
        swaps: A round.
        steps: Decoded in each of *row_rounds* turns, ours alone.
        max_tokens: Of a reply.
        round_min: About how long a round of both takes on two cores, to say beforehand how long it will be.
    """

    about: str
    rows_base: str
    rounds: int
    threads: int
    requests: int
    swaps: int
    steps: int
    row_rounds: int
    max_tokens: int
    round_min: float


class Server(Protocol):
    """Either of the two."""

    port: int

    def ask(self, client: Client, question: Question, adapter: str, max_tokens: int) -> Answer: ...


@dataclass(frozen=True)
class Plan:
    """What both servers are asked in one round.

    Attributes:
        short: Threads of one message, for the swaps.
        growing: variant -> threads, each a question for each of its requests.
        clients: For each client its questions.
    """

    short: list[Question]
    growing: dict[str, list[list[Question]]]
    clients: list[list[Question]]


@dataclass(frozen=True)
class Asked:
    """What one server did in one round.

    Attributes:
        measured: By name.
        parts: Milliseconds of each part of a reload; theirs has none.
        answers: (question, answer) of the threads and the clients, in the plan's order.
    """

    measured: dict[str, float]
    parts: dict[str, float]
    answers: list[tuple[Question, Answer]]


def make_plan(world: World, case: Case) -> Plan:
    """The questions of one round; none was asked before."""
    short = [world.threads("raw_style_variable", 1)[0] for _ in range(3 * (case.swaps + 1))]
    growing = {variant: [world.threads(variant, MESSAGES) for _ in range(case.threads)] for variant in THREADS}
    clients = [
        [world.threads("raw_style_variable", 3 + 2 * (number % 3))[-1] for number in range(case.requests)]
        for _ in range(CLIENTS)
    ]
    return Plan(short, growing, clients)


def ask_in_turns(world: World, plan: Plan, case: Case, sides: Sequence[str], folder: Path) -> dict[str, Asked]:
    """What each of *sides*, ours and theirs, did: both are there, and one is asked while the other waits.

    Args:
        sides: Who is asked first of the first thread; of the next it is the other.
        folder: For the lines they write.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(own_server(world, folder / "ours.log"))
        theirs = stack.enter_context(mlx_lm_server(world, folder / "theirs.log"))
        asked = {OURS: Side(ours, stack.enter_context(Client(ours.port))),
                 THEIRS: Side(theirs, stack.enter_context(Client(theirs.port)))}  # fmt: skip
        sides = list(sides)
        for (variant, threads), first in zip(plan.growing.items(), plan.short, strict=False):
            for side in sides:
                asked[side].ask(first, THREADS[variant], 2)  # it is live now
            for thread in threads:
                for side in sides:
                    asked[side].grow(variant, thread, case.max_tokens)
                sides.reverse()
            for each in asked.values():
                each.measured |= {f"{variant}_{what}": value for what, value in of_threads(each.grown[variant]).items()}
        for side in sides:
            asked[side].be_busy(plan.clients, case.max_tokens)
        swaps = {OURS: partial(_swap_ours, ours), THEIRS: partial(_swap_theirs, theirs)}
        parts: dict[str, dict[str, float]] = {}
        for side in sides:
            swap, parts[side] = swaps[side](asked[side].client, plan.short, world.generations[RETRAINED])
            asked[side].measured |= swap
        return {side: Asked(each.measured, parts[side], each.answers) for side, each in asked.items()}


@dataclass
class Side:
    """One of the two, and what it did so far.

    Attributes:
        grown: variant -> its threads, the answers of each.
        answers: Of the threads and the clients, with their questions.
    """

    server: Server
    client: Client
    measured: dict[str, float] = field(default_factory=dict)
    grown: dict[str, list[list[Answer]]] = field(default_factory=dict)
    answers: list[tuple[Question, Answer]] = field(default_factory=list)

    def ask(self, question: Question, adapter: str, max_tokens: int) -> Answer:
        return self.server.ask(self.client, question, adapter, max_tokens)

    def grow(self, variant: str, thread: Sequence[Question], max_tokens: int) -> None:
        """Ask one thread, request after request, each some time after the last."""
        answers = []
        for question in thread:
            sleep(PAUSE_S)
            answers.append(self.ask(question, THREADS[variant], max_tokens))
        self.grown.setdefault(variant, []).append(answers)
        self.answers += zip(thread, answers, strict=True)

    def be_busy(self, clients: Sequence[Sequence[Question]], max_tokens: int) -> None:
        """Many clients at once, each asking as soon as it is answered."""
        seconds, answers = _ask_at_once(self.server, clients, max_tokens)
        self.measured |= {
            "replies_a_second": len(answers) / seconds,
            "clients_tokens_a_second": sum(answer.completion_tokens for answer in answers) / seconds,
            "clients_reply_ms": 1000 * statistics.median(answer.total_s for answer in answers),
        }
        self.answers += zip([question for each in clients for question in each], answers, strict=True)


def of_threads(threads: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """Medians in milliseconds; those of the first request of a thread, to which nothing is known yet, are apart."""
    warm = [answer for thread in threads for answer in thread[1:]]
    cold = [thread[0] for thread in threads]
    return {
        "first_ms": 1000 * statistics.median(answer.first_s for answer in warm),
        "reply_ms": 1000 * statistics.median(answer.total_s for answer in warm),
        "cold_first_ms": 1000 * statistics.median(answer.first_s for answer in cold),
        "cold_reply_ms": 1000 * statistics.median(answer.total_s for answer in cold),
        "cached": sum(answer.cached_tokens for answer in warm) / sum(answer.prompt_tokens for answer in warm),
    }


def _ask_at_once(server: Server, clients: Sequence[Sequence[Question]], max_tokens: int) -> tuple[float, list[Answer]]:
    """Seconds until all were answered, and the answers, client by client."""
    begin = Barrier(len(clients) + 1)

    def work(number: int) -> list[Answer]:
        with Client(server.port) as client:
            begin.wait()
            adapter = BUSY[number % len(BUSY)]
            return [server.ask(client, question, adapter, max_tokens) for question in clients[number]]

    with ThreadPoolExecutor(len(clients)) as pool:
        working = [pool.submit(work, number) for number in range(len(clients))]
        begin.wait()
        began = perf_counter()
        answers = [answer for each in working for answer in each.result()]
        return perf_counter() - began, answers


# -- a new adapter live


def _swap_ours(
    server: OwnServer, client: Client, questions: Sequence[Question], generations: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """(what was measured, milliseconds of each part)."""
    parts: list[dict[str, float]] = []
    calls: list[float] = []

    def change(number: int, question: Question) -> Answer:
        seconds, timing = server.reload(client, RETRAINED, generations[number % len(generations)])
        calls.append(1000 * seconds)
        parts.append(timing)
        return server.ask(client, question, RETRAINED, 2)

    first = first_tokens(change, lambda question: server.ask(client, question, RETRAINED, 2), questions)
    each = {part: statistics.median(timing[part] for timing in parts) for part in parts[0]}
    live = statistics.median(sum(timing.get(part, 0.0) for part in LIVE) for timing in parts)
    return {"swap_ms": live, "reload_call_ms": statistics.median(calls), **first}, each


def _swap_theirs(
    server: MlxLmServer, client: Client, questions: Sequence[Question], generations: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    now = generations[-1]

    def change(number: int, question: Question) -> Answer:
        nonlocal now
        now = generations[number % len(generations)]
        return same(question)

    def same(question: Question) -> Answer:
        return server.ask(client, question, RETRAINED, 2, now)

    first = first_tokens(change, same, questions)
    return {"swap_ms": first["first_after_swap_ms"] - first["first_warm_ms"], **first}, {}


def first_tokens(
    change: Callable[[int, Question], Answer], same: Callable[[Question], Answer], questions: Sequence[Question]
) -> dict[str, float]:
    """First-token times in milliseconds right after a change and with nothing changed, two of these for each change."""
    changed, warm = [], []
    same(questions[0])
    for number, begin in enumerate(range(1, len(questions) - 2, 3)):
        changed.append(change(number, questions[begin]).first_s)
        warm += [same(question).first_s for question in questions[begin + 1 : begin + 3]]
    return {
        "first_after_swap_ms": 1000 * statistics.median(changed),
        "first_warm_ms": 1000 * statistics.median(warm),
    }
