"""How much of a prompt is fed at once: as much as those who are being answered can wait for."""

from dataclasses import dataclass

STALL_S = 0.1  # how long a row may wait between two of its tokens for somebody else's prompt
LEAST, MOST = 32, 512  # fewer tokens cost nearly as much; and one chunk is the grain of a cancellation
FIRST_S = 90.0  # seconds that a first chunk may take: weights come from the disk, kernels are compiled
WHOLE = 16  # tokens: a matrix product costs least at whole multiples, and fewer are not worth a pass of their own


@dataclass
class Pace:
    """Learns from each chunk what a token costs.

    Attributes:
        least: What a chunk costs at least, in tokens.
        known: Whether anything was learned.
    """

    seconds_a_token: float = STALL_S / LEAST  # nothing is known yet: begin with little
    least: int = LEAST
    known: bool = False

    def tokens(self, others_wait: bool) -> int:
        """How many prompt tokens may be fed before the next step."""
        if not others_wait:
            return MOST
        fitting = int(min(MOST, max(LEAST, STALL_S / self.seconds_a_token)))
        return fitting - fitting % WHOLE

    def took(self, tokens: int, seconds: float) -> None:
        """A chunk of *tokens* took so long. Of the last chunks the newest counts most; short ones say little."""
        if tokens >= self.least:
            self.seconds_a_token += 0.3 * (seconds / tokens - self.seconds_a_token)
            self.known = True

    def at_most_s(self, tokens: int) -> float:
        """Seconds after which a chunk of *tokens* is late, also on a machine that is slow."""
        return 3 * tokens * self.seconds_a_token if self.known else FIRST_S


def chunk(left: int, room: int) -> int:
    """How many of the *left* tokens of a prompt are fed where there is *room* for so many: a small rest goes along."""
    return left if left < room + WHOLE else room
