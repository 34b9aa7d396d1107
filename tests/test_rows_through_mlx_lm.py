"""A dataset of ours, read by mlx-lm's own chat dataset, gives the tokens that we train on.

So ``mlx_lm.lora --data`` can be used on it, for the templates that need nothing of ours. mlx-lm renders the whole
conversation at once and goes on behind the end of turn; up to there its ids are those of ``encode_row``.
"""

from functools import cache

import pytest
from hypothesis import given
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.datasets import ChatDataset

from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.golden_threads import GOLDEN_THREADS
from prompt_format.variants import ChatMessage
from tests.hostile import QUICK, WIDE, replies
from tests.make_golden import CASES, case
from tests.toy_tokenizers import ALL, chat_template, named, tokenizer

# Templates that have a system role, write no date and put nothing between the prompt and the reply.
CHATML_LIKE = (
    "chatml",
    "refuses_two_of_one_side",
    "demands_a_system_role",
    "adds_a_default_system_text",
    "trims",
    "channel_before_the_reply",
    "joins_tokens_from_role_names",
    "starter",
    "qwen2.5",
    "smollm2",
)
THREADS = [*GOLDEN_THREADS.values(), *(case(name).thread for name in CASES)]
PERSONA = case(CASES[0]).persona


@cache
def wrapper(label: str) -> TokenizerWrapper:
    return TokenizerWrapper(tokenizer(label))


def by_mlx_lm(label: str, row: list[ChatMessage]) -> list[int]:
    dataset = ChatDataset([{"messages": row}], wrapper(label))
    ids, _ = dataset.process(dataset[0])
    return ids


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("label", named(*CHATML_LIKE))
def test_mlx_lm_gives_a_row_the_ids_we_train_on(label: str, variant: str) -> None:
    """Up to and including the end of turn, mlx-lm's ids of a row are those of the example."""
    found = PromptFormat(chat_template(label), variant, PERSONA, WIDE)
    rows = [found.row(thread, case(name).reply) for thread in THREADS for name in CASES]

    for row in rows:
        ours = found.encode_row(row).ids
        assert ours == by_mlx_lm(label, row)[: len(ours)]


@pytest.mark.parametrize("label", named("chatml", "starter", "qwen2.5"))
def test_mlx_lm_gives_hostile_replies_the_ids_we_train_on(label: str) -> None:
    """Whatever the reply, mlx-lm's ids of its row are those of the example."""
    found = PromptFormat(chat_template(label), "raw_style", PERSONA, WIDE)

    @QUICK
    @given(replies())
    def holds(reply: list[str]) -> None:
        row = found.row(GOLDEN_THREADS["direct"], reply)
        ours = found.encode_row(row).ids
        assert ours == by_mlx_lm(label, row)[: len(ours)]

    holds()


@pytest.mark.parametrize("label", named("chatml", "starter", "qwen2.5"))
def test_mlx_lm_s_wrapper_gives_the_same_contract(label: str) -> None:
    """A tokenizer as mlx_lm.load returns it has the contract of the tokenizer in it."""
    wrapped = ChatTemplate(wrapper(label))

    assert (
        PromptFormat(chat_template(label), "turns", PERSONA).contract
        == PromptFormat(wrapped, "turns", PERSONA).contract
    )
