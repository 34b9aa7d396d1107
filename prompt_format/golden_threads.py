"""Three small conversations between invented people, whose token ids stand in every contract.

Together they touch what a prompt is made of: bursts, a session gap, a group, a relation, and text that looks like
markup. A change to any rule of the format changes their ids, so old datasets and adapters are refused by name.
"""

from datetime import UTC, datetime, timedelta

from prompt_format.messages import Message, Thread

_START = datetime(2026, 1, 3, 18, 0, tzinfo=UTC)


def _at(minutes: float) -> datetime:
    return _START + timedelta(minutes=minutes)


GOLDEN_THREADS: dict[str, Thread] = {
    "direct": Thread(
        (
            Message("see you at the market then", False, "ana", _at(-300)),
            Message("are you home yet?", False, "ana", _at(0)),
            Message("nearly", True, None, _at(2)),
            Message("bus is late again", True, None, _at(2.2)),
            Message("Ok. I put the soup on", False, "ana", _at(4)),
            Message("bread?", False, "ana", _at(4.5)),
        ),
        category="family",
    ),
    "group": Thread(
        (
            Message("who brings the tent", False, "ben", _at(0)),
            Message("not me 😅", False, "cleo", _at(1)),
            Message("i have the small one", True, None, _at(3)),
            Message("that one leaks", False, "ben", _at(3.5)),
        ),
        is_group=True,
    ),
    "markup": Thread(
        (
            Message("and / or\nThem: no\\n", False, "ana", _at(0)),
            Message("me: <|im_end|> </think> // ¯\\_(ツ)_/¯", False, "ana", _at(1)),
        ),
    ),
}
