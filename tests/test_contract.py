"""A contract says all that decides a prompt, and a difference is refused by name."""

import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from errors import DataRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.contract import Contract, GoldenPrompt, differences
from prompt_format.format import PromptFormat, format_for
from prompt_format.golden_threads import GOLDEN_THREADS
from prompt_format.persona import Persona, Style
from prompt_format.window import Window
from tests.toy_tokenizers import ALL, CHATML, CHATML_TOKENS, ROOT, byte_level, chat_template

WRITTEN = Contract(
    format_version=1,
    variant="turns",
    window=Window(turns=24, step=8, characters=3000, tokens=384, burst_minutes=10, session_minutes=60),
    persona=Persona(
        name="Zoë", style=Style(lower_case=96, full_stop=2, emoji=12, favourite_emoji=["😅"], words=4, bubbles=14)
    ),
    template_sha256="1" * 64,
    tokenizer_sha256="2" * 64,
    control_tokens_sha256="3" * 64,
    end_of_turn=4,
    golden=[GoldenPrompt(thread="a", ids=[1, 2]), GoldenPrompt(thread="b", ids=[])],
)
WIDE = Window(tokens=4000)
JO = Persona(name="Jo")


def made(template: ChatTemplate | None = None, variant: str = "raw_style", persona: Persona = JO) -> Contract:
    return PromptFormat(template or chat_template("chatml"), variant, persona, WIDE).contract


def test_the_digest_is_that_of_the_canonical_json() -> None:
    """The digest of a contract is the same on every machine and in every version."""
    expected = "sha256:a6581efbbfbf9ebc3980db34cb233b6d1bf32728b177c9e290b1f6ba70ba0a3c"

    assert expected == WRITTEN.digest


def test_a_contract_survives_json() -> None:
    """A contract read back from JSON is equal and has the same digest, whole numbers in its limits or not."""
    for contract in (WRITTEN, made()):
        read = Contract.model_validate_json(contract.model_dump_json())
        assert (contract, contract.digest) == (read, read.digest)


CHANGES: dict[str, Any] = {
    "format_version": 2,
    "variant": "raw_style",
    "window": Window(turns=23),
    "persona": Persona(name="Zoe"),
    "template_sha256": "a" * 64,
    "tokenizer_sha256": "b" * 64,
    "control_tokens_sha256": "c" * 64,
    "end_of_turn": 5,
    "golden": [GoldenPrompt(thread="a", ids=[1, 3]), GoldenPrompt(thread="b", ids=[])],
}


def test_every_part_is_in_the_table() -> None:
    """The tests below change every part of a contract."""
    assert list(Contract.model_fields) == list(CHANGES)


@pytest.mark.parametrize("part", CHANGES)
def test_a_difference_is_named(part: str) -> None:
    """Of two contracts that differ in one part, that part alone is named, and the digests differ."""
    other = WRITTEN.model_copy(update={part: CHANGES[part]})

    (sentence,) = differences(other, WRITTEN)
    assert sentence.startswith(f"contract.{part} is ")
    assert other.digest != WRITTEN.digest


def test_all_differences_are_named_at_once() -> None:
    """Contracts that differ in everything are told apart part by part."""
    assert list(CHANGES) == [
        line.split()[0].removeprefix("contract.") for line in differences(WRITTEN.model_copy(update=CHANGES), WRITTEN)
    ]


def test_both_values_are_said() -> None:
    """A difference says what is there and what is here, and long values by their digests."""
    other = WRITTEN.model_copy(
        update={"variant": "raw_style", "golden": [GoldenPrompt(thread="a", ids=[*range(999)])] * 2}
    )

    variant, golden = differences(other, WRITTEN)
    assert "contract.variant is raw_style there and turns here" == variant
    assert len(golden) < 200


def test_equal_contracts_have_no_differences() -> None:
    """A contract does not differ from itself."""
    assert [] == differences(WRITTEN, WRITTEN.model_copy())


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"template_sha256": "x"}, {"end_of_turn": -1}, {"golden": []}, {"persona": {"name": "Them"}}],
    ids=str,
)
def test_a_malformed_contract_is_refused(change: dict[str, Any]) -> None:
    """A contract with an unknown part, no digest or no golden prompt is refused."""
    with pytest.raises(ValidationError):
        Contract.model_validate({**WRITTEN.model_dump(mode="json"), **change})


# -- contracts of a format


@pytest.mark.parametrize("variant", ALL)
def test_a_format_is_made_again_from_its_contract(variant: str) -> None:
    """A contract and the same tokenizer give the same format, and so the same contract."""
    contract = Contract.model_validate_json(made(variant=variant).model_dump_json())

    assert contract == format_for(ChatTemplate(byte_level()), contract).contract


def test_a_contract_holds_every_golden_thread() -> None:
    """A contract holds the token ids of each golden thread."""
    assert list(GOLDEN_THREADS) == [golden.thread for golden in made().golden]


def test_contracts_of_variants_differ() -> None:
    """Each variant has a contract of its own."""
    assert len(ALL) == len({made(variant=variant).digest for variant in ALL})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"template": CHATML.replace("}}\n", "}}: ")}, ["template_sha256", "golden"]),
        ({"merges": (("t", "h"),)}, ["tokenizer_sha256", "end_of_turn", "golden"]),
        ({"control": (*CHATML_TOKENS, "<|more|>")}, ["tokenizer_sha256", "control_tokens_sha256"]),
        ({"control": CHATML_TOKENS[::-1]}, ["tokenizer_sha256", "end_of_turn", "golden"]),
    ],
    ids=["template", "merges", "a control token more", "other numbers"],
)  # fmt: skip
def test_another_base_is_refused(change: dict[str, Any], parts: list[str]) -> None:
    """A contract made for another template or tokenizer is refused, with each part that differs."""
    with pytest.raises(DataRefused) as refusal:
        format_for(ChatTemplate(byte_level(**change)), made())

    assert "contract_mismatch" == refusal.value.code
    assert parts == [line.split()[0].removeprefix("contract.") for line in refusal.value.details]


def test_an_older_format_is_refused() -> None:
    """A contract of another format version is refused even where all ids agree."""
    with pytest.raises(DataRefused, match="contract.format_version is 0 there and 1 here"):
        format_for(chat_template("chatml"), made().model_copy(update={"format_version": 0}))


def test_an_unknown_variant_is_refused() -> None:
    """A contract of a variant that this version does not know is refused by name."""
    with pytest.raises(DataRefused, match="'raw_stile'") as refusal:
        format_for(chat_template("chatml"), made().model_copy(update={"variant": "raw_stile"}))

    assert "contract_mismatch" == refusal.value.code


def test_another_process_makes_the_same_contract() -> None:
    """A process with another hash seed, time zone and locale makes the same contract."""
    program = "from tests.test_contract import made; print(made().digest)"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}

    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert made().digest == printed.stdout.strip()
