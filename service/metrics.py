"""What the service counts and times, for Prometheus: ``GET /metrics``.

Every label is a word of ours (a route's template, a status, an error's code) or a name from the store: none comes
from a request, so neither can its text be read here nor the number of series grow. All is counted, and read, on the
event loop. Each app has its own: nothing is global.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from service.registry import Registry
from service.reload import Result
from service.replies import Replies

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SWAP = ("verify", "read", "stage", "probe", "cutover")  # of what a result has in timing_ms


class Live(Collector):
    """What is read at the moment of asking; nothing before ``watch``."""

    def __init__(self) -> None:
        self._watched: tuple[Registry, Replies] | None = None

    def watch(self, registry: Registry, replies: Replies) -> None:
        self._watched = registry, replies

    def collect(self) -> Iterator[Metric]:
        if self._watched is None:
            return
        registry, replies = self._watched
        rows = registry.describe()
        yield GaugeMetricFamily("samevoice_replies_in_flight", "Waiting or being written.", replies.in_flight)
        adapters = GaugeMetricFamily("samevoice_adapters", "Adapters in the store, by status.", labels=["status"])
        for status, count in Tally(row["status"] for row in rows).items():
            adapters.add_metric([status], count)
        yield adapters
        info = GaugeMetricFamily(
            "samevoice_adapter_info", "Which generation answers.", labels=["adapter", "generation"]
        )
        for row in rows:
            if row["generation"] is not None:
                info.add_metric([row["name"], row["generation"]], 1)
        yield info


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.live = Live()
        own = self._registry = CollectorRegistry()
        own.register(self.live)

        def counter(name: str, of: str, *labels: str) -> Counter:
            return Counter(f"samevoice_{name}_total", of, labels, registry=own)

        def seconds(name: str, of: str, *labels: str) -> Histogram:
            return Histogram(f"samevoice_{name}_seconds", of, labels, buckets=SECONDS, registry=own)

        self._requests = counter("requests", "HTTP requests answered.", "route", "status")
        self._refusals = counter("refusals", "Requests that ended with an error, by its code.", "code")
        self._request = seconds("request", "From a request to the end of its answer.", "route")
        self._first_token = seconds("first_token", "From the engine's queue to the first token.")
        self._queue = seconds("queue", "In the engine's queue.")
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._cached = counter("cached_tokens", "Tokens of prompts that had been read before.")
        self._completion = counter("completion_tokens", "Tokens written.")
        self._replies = counter("replies", "Replies written to their end.", "adapter", "finish_reason")
        self._reloads = counter("reloads", "Adapters that a reload looked at, by what it did.", "status")
        self._swap = seconds("swap", "To check a generation, bring it into a slot and cut over.")

    def answered(self, route: str, status: int, error: str | None, seconds: float) -> None:
        """A request has been answered. *route* is a template, *error* a code of ours."""
        self._requests.labels(route, str(status)).inc()
        self._request.labels(route).observe(seconds)
        if error is not None:
            self._refusals.labels(error).inc()

    def replied(self, answer: Mapping[str, Any]) -> None:
        """*answer*, as ``POST /reply`` gives it, has been written to its end."""
        usage, timing = answer["usage"], answer["timing_ms"]
        self._queue.observe(timing["queue"] / 1000)
        self._first_token.observe((timing["queue"] + timing["prefill"]) / 1000)
        self._prompt.inc(usage["prompt_tokens"])
        self._cached.inc(usage["cached_tokens"])
        self._completion.inc(usage["completion_tokens"])
        for reply in answer["replies"]:
            self._replies.labels(answer["adapter"]["name"], reply["finish_reason"]).inc()

    def reloaded(self, results: Iterable[Result]) -> None:
        """A reload has ended with *results*."""
        for result in results:
            self._reloads.labels(result.status).inc()
            if result.status == "loaded":
                self._swap.observe(sum(result.timing_ms.get(part, 0.0) for part in SWAP) / 1000)

    def text(self) -> bytes:
        """All of it in Prometheus' text format, as ``MEDIA_TYPE`` says."""
        return generate_latest(self._registry)
