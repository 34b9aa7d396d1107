"""What a dataset, an adapter and a service must agree on, in one small document.

The builder writes it into ``dataset.json``, the publisher into every manifest. Whoever reads one recomputes it with
the tokenizer and the code at hand, and refuses what differs by the name of the part.
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from prompt_format.persona import Persona
from prompt_format.window import Window

FORMAT_VERSION = 1


class GoldenPrompt(BaseModel):
    """The token ids that a golden thread had when the contract was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    thread: str
    ids: list[int]


class Contract(BaseModel):
    """Everything that decides the token ids of a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int
    variant: str
    window: Window
    persona: Persona
    template_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    tokenizer_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    control_tokens_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    end_of_turn: int = Field(ge=0)
    golden: list[GoldenPrompt] = Field(min_length=2)

    @property
    def digest(self) -> str:
        """``sha256:`` and the digest of the contract's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def differences(theirs: Contract, ours: Contract) -> list[str]:
    """A sentence for each part in which two contracts differ; empty when they are the same."""
    return [
        f"contract.{part} is {_short(theirs_value)} there and {_short(ours_value)} here"
        for part, theirs_value, ours_value in _parts(theirs, ours)
        if theirs_value != ours_value
    ]


def _parts(theirs: Contract, ours: Contract) -> list[tuple[str, Any, Any]]:
    left, right = theirs.model_dump(mode="json"), ours.model_dump(mode="json")
    return [(part, left[part], right[part]) for part in Contract.model_fields]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:24]}… ({hashlib.sha256(text.encode()).hexdigest()[:12]})"
