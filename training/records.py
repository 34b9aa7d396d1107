"""The normalised record: one message a line in ``data/messages/NAME.jsonl``, whatever it came from."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from errors import DataRefused


def _rfc3339(value: Any) -> Any:
    """Pydantic would take seconds since 1970 as well, as a number or as text."""
    if isinstance(value, (int, float)) or (isinstance(value, str) and not re.match(r"\d{4}-\d\d-\d\d", value)):
        raise ValueError("a time is RFC 3339 text")
    return value


class Record(BaseModel):
    """One message. Fields beyond these (thread_name, attachments ...) are for reports and are kept by importers."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    source: str
    thread_id: str = Field(min_length=1)
    thread_kind: Literal["dm", "group"] = "dm"
    sender_id: str | None = None
    from_me: bool
    sent_at: Annotated[AwareDatetime | None, BeforeValidator(_rfc3339)] = None
    text: str = ""
    kind: Literal["text", "media", "reaction", "system", "deleted", "call"] = "text"
    reply_to: str | None = None
    flags: list[str] = []
    source_id: str | None = None
    order: int = 0

    @property
    def moment(self) -> datetime | None:
        return self.sent_at


def read_records(path: Path) -> Iterator[Record | ValidationError]:
    """The records of one file, and for each line that is none the error; the file is never held in memory.

    Raises:
        DataRefused: If the file is not there or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    yield _record(line, number)
    except FileNotFoundError:
        raise DataRefused(f"no file '{path}': import messages first (training import)", code="no_such_file") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise DataRefused(f"'{path}' cannot be read ({type(error).__name__})", code="unreadable_file") from None


def _record(line: str, number: int) -> Record | ValidationError:
    try:
        record = Record.model_validate_json(line)
    except ValidationError as error:
        return error
    return record.model_copy(update={"order": number}) if record.order == 0 else record


def write_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
