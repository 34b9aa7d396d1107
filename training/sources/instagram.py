"""Instagram: the JSON of "Download your information"."""

from collections.abc import Iterator

from training.sources.export import Export
from training.sources.meta_files import recognised
from training.sources.meta_json import read_meta
from training.sources.options import Options
from training.sources.outcome import Item


def recognises(export: Export) -> bool:
    """Folders such as ``your_instagram_activity/messages/inbox/anna_123/message_1.json``."""
    return "instagram" in recognised(export)


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every conversation."""
    return read_meta(export, options, "instagram")
