"""Every error this project raises on purpose, in one tree.

    SamevoiceError
    ├── Refused                    bad input: a command ends with exit code 1
    │   ├── PromptRefused          this thread cannot become a prompt
    │   ├── BaseRefused            this base model, tokenizer or chat template cannot be used
    │   ├── DataRefused            messages or a dataset are missing, empty or made for something else
    │   ├── ConfigRefused          a training config
    │   ├── TrainingStopped        the loss is not a number, or a checkpoint does not fit
    │   ├── AdapterRefused         an adapter folder: the code says which check it failed
    │   └── RequestRefused         an HTTP request
    │       ├── Malformed  InvalidField  Unauthorized  Forbidden  UnknownAdapter
    │       ├── GenerationConflict  TooLarge  NotJson  Busy
    ├── NotReady                   the engine is loading, stopping or has failed
    ├── DeadlinePassed             no answer within the time allowed
    └── Locked                     another process holds the lock: exit code 3

Each carries a stable ``code``, a message that names the thing, what is wrong with it and what to do, and
``details``: everything that was wrong, not only the first. No message text is ever put into one.
"""

import os
import traceback
from collections.abc import Sequence


class SamevoiceError(Exception):
    """The root. ``code`` is stable once shipped; ``details`` is a list of plain sentences."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, details: Sequence[str] = ()):
        super().__init__(message)
        self.message = message
        self.details = list(details)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {detail}" for detail in self.details)])


class Refused(SamevoiceError):
    code = "refused"


class PromptRefused(Refused):
    code = "prompt_refused"


class BaseRefused(Refused):
    code = "base_refused"


class DataRefused(Refused):
    code = "data_refused"


class ConfigRefused(Refused):
    code = "config_refused"


class TrainingStopped(Refused):
    code = "training_stopped"


class AdapterRefused(Refused):
    code = "adapter_refused"


class RequestRefused(Refused):
    code = "request_refused"


class Malformed(RequestRefused):
    code = "malformed_json"


class InvalidField(RequestRefused):
    code = "invalid_field"


class Unauthorized(RequestRefused):
    code = "unauthorized"


class Forbidden(RequestRefused):
    code = "forbidden_host"


class UnknownAdapter(RequestRefused):
    code = "unknown_adapter"


class GenerationConflict(RequestRefused):
    code = "generation_conflict"


class TooLarge(RequestRefused):
    code = "body_too_large"


class NotJson(RequestRefused):
    code = "unsupported_media_type"


class Busy(RequestRefused):
    code = "queue_full"


class NotReady(SamevoiceError):
    code = "not_ready"


class DeadlinePassed(SamevoiceError):
    code = "deadline"


class Locked(SamevoiceError):
    code = "locked"


def exit_code(error: SamevoiceError) -> int:
    """What a command that ends with *error* returns: 3 locked, 1 refused, 70 anything else."""
    if isinstance(error, Locked):
        return 3
    return 1 if isinstance(error, Refused) else 70


def one_line(error: SamevoiceError) -> str:
    """*error* with its details in one line, for a list of several."""
    return ": ".join([error.message, *([", ".join(error.details)] if error.details else [])])


def internal_failure(error: BaseException) -> str:
    """One line about an error nobody expected: its kind and place, never its text, which may be somebody's message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"error [internal]: {type(error).__name__}{place}; please report this line"
