"""The golden conversations of ``tests/golden``, and the command that writes their prompts anew.

    python -m tests.make_golden        then read the diff: it is the text that every model will see

Each folder holds ``thread.json`` (invented people) and, for each variant, ``prompt.<variant>.txt``,
``example.<variant>.txt`` (with the reply) and ``ids.<variant>.json`` (the example's ids, by the starter's tokenizer).
"""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from prompt_format.chat_template import ChatTemplate
from prompt_format.format import Example, PromptFormat
from prompt_format.messages import Message, Thread
from prompt_format.persona import Persona
from prompt_format.variants import VARIANTS
from tests.toy_tokenizers import chat_template

GOLDEN = Path(__file__).parent / "golden"
CASES = tuple(sorted(path.parent.name for path in GOLDEN.glob("*/thread.json")))


@dataclass(frozen=True)
class Case:
    """One folder's conversation, whose persona is to answer it, and the answer."""

    persona: Persona
    thread: Thread
    reply: list[str]


@cache
def case(name: str) -> Case:
    """The conversation of ``tests/golden/<name>``."""
    found = json.loads((GOLDEN / name / "thread.json").read_text(encoding="utf-8"))
    messages = tuple(Message(**message) for message in map(_with_time, found["messages"]))
    thread = Thread(messages, found["is_group"], found["category"])
    return Case(Persona.model_validate(found["persona"]), thread, found["reply"])


def _with_time(message: dict) -> dict:
    return {**message, "sent_at": datetime.fromisoformat(message["sent_at"])}


def rendered(example: Example, template: ChatTemplate) -> tuple[str, str]:
    """*example* without and with the reply, as text."""
    decode = template.tokenizer.decode
    return decode(example.ids[: example.reply_start]), decode(example.ids)


def read(name: str, kind: str, variant: str) -> str:
    """The text of ``<kind>.<variant>.txt``, byte for byte."""
    return (GOLDEN / name / f"{kind}.{variant}.txt").read_bytes().decode()


def read_ids(name: str, variant: str) -> Example:
    """The ids of ``ids.<variant>.json``."""
    return Example(**json.loads((GOLDEN / name / f"ids.{variant}.json").read_text()))


def write(name: str, variant: str, template: ChatTemplate) -> None:
    """The three files of one conversation and variant."""
    example = PromptFormat(template, variant, case(name).persona).encode_example(case(name).thread, case(name).reply)
    prompt_text, example_text = rendered(example, template)
    folder = GOLDEN / name
    (folder / f"prompt.{variant}.txt").write_bytes(prompt_text.encode())
    (folder / f"example.{variant}.txt").write_bytes(example_text.encode())
    ids = json.dumps({"reply_start": example.reply_start, "ids": example.ids})
    (folder / f"ids.{variant}.json").write_text(ids + "\n")


if __name__ == "__main__":
    for name in CASES:
        for variant in VARIANTS:
            write(name, variant, chat_template("starter"))
