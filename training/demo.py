"""``make demo``: the whole loop on an invented person's history, on one page, in a few minutes.

History becomes a dataset, the dataset an adapter, the adapter goes live in a service that is already running, and
base and adapter answer three conversations that were held out of training. Everything happens on this machine.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from base_model.fast_cpu import HOW_TO_INSTALL, prepare_cpu
from base_model.offline import stay_offline
from errors import Refused
from training.private_files import PRIVATE_UMASK

EXAMPLE = Path("data/example")
STORE = Path("adapters")
DATA = Path("data/demo")
SERVICE_STARTS_S = 120


def main() -> int:
    """Run the loop; returns the exit code."""
    os.umask(PRIVATE_UMASK)
    stay_offline(hub_allowed=False)
    if sys.platform == "linux" and prepare_cpu(threads=1, side_by_side=True) is None:
        print(f"note: {HOW_TO_INSTALL}", file=sys.stderr)
    try:
        _demo()
    except Refused as error:
        print(f"error [{error.code}]: {error}", file=sys.stderr)
        return 1
    return 0


def _demo() -> None:
    # Imported here: mlx must not be imported before the BLAS has been opened.
    from base_model.resolve import resolve
    from base_model.tokenizer import load_tokenizer
    from prompt_format.chat_template import ChatTemplate
    from training.chosen import choose
    from training.config import load_config
    from training.contacts import load_contacts
    from training.conversations import read_history
    from training.dataset import build
    from training.plan import Plan
    from training.train import notify

    began = time.monotonic()
    config = load_config(EXAMPLE / "jo.yaml").model_copy(update={"data": DATA / "raw_style_variable"})
    history = read_history([EXAMPLE / "messages.jsonl"])
    plan = Plan("Jo", ["raw_style_variable"], load_contacts(EXAMPLE / "contacts.yaml"))

    _title(began, "build: messages -> training rows")
    (written,) = build(history, ChatTemplate(load_tokenizer(resolve(config.model))), DATA, plan).variants
    print(", ".join(f"{count} {split}" for split, count in written.counts.items()) + f" rows in {written.folder}")

    _title(began, "serve: the base model alone, for now")
    with tempfile.TemporaryDirectory() as folder, service(config.model, Path(folder) / "token") as (url, token):
        print(f"service at {url}")
        chosen = _three(list(choose(history, plan).pairs("test")))
        before = [ask(url, token, context, "base") for context, _ in chosen]

        _title(began, "train: rows -> adapter, measured on held-out replies, published")
        published = _train(config)

        _title(began, "reload: the running service picks it up")
        print(notify(url, published.name, token))
        after = [ask(url, token, context, f"{published.name}@{published.generation}") for context, _ in chosen]

    _title(began, "three held-out conversations, answered")
    _show(chosen, before, after)
    _sum_up(published, time.monotonic() - began)


def _train(config: Any) -> Any:
    from training.live_view import watching
    from training.train import train

    with watching(sys.stdout) as watch:
        return train(config, STORE, watch, activate=True)


def _three(pairs: Sequence[Any]) -> Sequence[Any]:
    """Three of *pairs*, far apart."""
    return pairs[5 :: len(pairs) // 3][:3]


def _sum_up(published: Any, seconds: float) -> None:
    metrics = published.verdict.metrics
    base_loss, loss = metrics["base_test_loss"], metrics["test_loss"]
    change = 100 * (loss / base_loss - 1)
    print(f"\nheld-out reply NLL, nats a token: base {base_loss:.3f}, adapter {loss:.3f} ({change:+.1f} %)")
    print("gate: " + ("; ".join(published.verdict.gate.reasons) or "passed"))
    print(f"adapter {published.name}@{published.generation}; the whole loop took {seconds:.0f} s")
    print("next: `make serve`, and the README for your own messages")


def _show(pairs: Sequence[Any], before: Sequence[list[str]], after: Sequence[list[str]]) -> None:
    for (context, reply), base, adapter in zip(pairs, before, after, strict=True):
        print(f"\n  them     {_bubbles(_last_turn(context))}")
        print(f"  base     {_bubbles(base)}\n  adapter  {_bubbles(adapter)}\n  in truth {_bubbles(reply)}")


@contextmanager
def service(model: str, token_file: Path) -> Iterator[tuple[str, str]]:
    """A service in a process of its own: (its address, its token). It is stopped at the end."""
    command = [sys.executable, "-m", "service", "--model", model, "--port", "0", "--token-file", str(token_file)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            yield _address(process, log), token_file.read_text().strip()
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _address(process: "subprocess.Popen[str]", log: Any) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + SERVICE_STARTS_S
    for line in process.stdout:
        found = re.match(r"ready\s+(http://\S+)", line)
        if found:
            return found.group(1)
        if time.monotonic() > deadline:
            break
    log.seek(0)
    raise Refused(f"the service did not start:\n{log.read()[-2000:]}", code="service_did_not_start")


def ask(url: str, token: str, thread: Any, adapter: str) -> list[str]:
    """The bubbles that ``POST /reply`` gives for *thread*, greedily."""
    body: dict[str, Any] = {"messages": _messages(thread), "adapter": adapter, "temperature": 0, "max_tokens": 48}
    if adapter == "base":
        body |= {"variant": "raw_style_variable", "name": "Jo"}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{url}/reply", json.dumps(body).encode(), headers)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with direct.open(request, timeout=120) as answer:
        bubbles: list[str] = json.load(answer)["bubbles"]
    return bubbles


def _messages(thread: Any) -> list[dict[str, Any]]:
    return [
        {
            "from_me": message.from_me,
            "text": message.text,
            "sent_at": message.sent_at.isoformat() if message.sent_at else None,
        }
        for message in thread.messages[-40:]
    ]


def _last_turn(thread: Any) -> list[str]:
    texts: list[str] = []
    for message in reversed(thread.messages):
        if message.from_me:
            break
        texts.insert(0, message.text)
    return texts[-3:]


def _bubbles(texts: Any) -> str:
    return " / ".join(text.replace("\n", " ") for text in texts) or "(nothing)"


def _title(began: float, text: str) -> None:
    print(f"\n[{time.monotonic() - began:5.1f} s] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
