"""Greedy replies from the model in memory, for evaluation. The service has its own engine."""

from collections.abc import Sequence
from typing import Any

from mlx_lm.generate import BatchGenerator

from prompt_format.format import PromptFormat


def greedy_replies(
    model: Any, form: PromptFormat, prompts: Sequence[list[int]], max_tokens: int = 48
) -> list[tuple[list[str], bool]]:
    """For each prompt (bubbles, whether it ended by itself), in order."""
    generator = BatchGenerator(
        model,
        max_tokens=max_tokens,
        stop_tokens=[[i] for i in sorted(form.template.stop_ids)],
        completion_batch_size=8,
        prefill_batch_size=8,
    )
    tokens: dict[int, list[int]] = {}
    ended: dict[int, bool] = {}
    uids = generator.insert([list(prompt) for prompt in prompts])
    while len(ended) < len(uids):
        for response in generator.next_generated():
            tokens.setdefault(response.uid, []).append(response.token)
            if response.finish_reason is not None:
                ended[response.uid] = response.finish_reason == "stop"
    generator.close()
    return [(form.decode_reply(tokens[uid]), ended[uid]) for uid in uids]
