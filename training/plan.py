"""What the user asks of a build."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prompt_format.variants import DEFAULT_WINDOWS
from prompt_format.window import Window
from training.contacts import Contacts
from training.privacy.rules import Rules
from training.selection import Limits


@dataclass(frozen=True)
class Plan:
    """Everything a build can be told.

    Attributes:
        variants: None given: each that can hold data.
        groups: Also learn from group chats.
        since: Leave out what was written before.
        window: Other limits than each variant's own.
        session_minutes, burst_minutes: Other gaps than the window's.
        workers: Processes that write rows; None: as many as it has cores where there is much to write.
    """

    name: str
    variants: Sequence[str] = ()
    contacts: Contacts = field(default_factory=Contacts)
    groups: bool = False
    since: datetime | None = None
    window: Window | None = None
    session_minutes: float | None = None
    burst_minutes: float | None = None
    limits: Limits = field(default_factory=Limits)
    rules: Rules = field(default_factory=Rules)
    workers: int | None = None

    def window_of(self, variant: str) -> Window:
        """The window of *variant* under this plan."""
        given = {"session_minutes": self.session_minutes, "burst_minutes": self.burst_minutes}
        changed = {name: minutes for name, minutes in given.items() if minutes is not None}
        window = self.window or DEFAULT_WINDOWS[variant]
        return Window.model_validate({**window.model_dump(), **changed})

    @property
    def gaps(self) -> Window:
        """A window with the gaps that turns and sessions are cut by; all variants share them."""
        return self.window_of("raw_style")
