"""A small number that tells two adapters apart: the first logits after a fixed prompt.

The trainer stores them in the manifest, the service computes them from what it loaded: if they differ, what serves is
not what was trained. The prompt is what every prompt of the format begins with, so that the service's prefix cache
can keep what the probe computed.
"""

from prompt_format.format import PromptFormat
from prompt_format.golden_threads import GOLDEN_THREADS

PROBE_LOGITS = 32
PROBE_TOLERANCE = 0.05  # in nats; a base held in half precision rounds more than this rarely


def probe_prompt(form: PromptFormat) -> list[int]:
    """Token ids of the prompt whose next-token logits are compared; at least one."""
    return list(form.head_ids()) or form.encode_prompt(GOLDEN_THREADS["direct"])
