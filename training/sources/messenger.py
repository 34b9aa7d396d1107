"""Facebook Messenger: the JSON of "Download your information", and that of end-to-end encrypted chats."""

from collections.abc import Iterator

from training.sources.export import Export
from training.sources.meta_files import recognised
from training.sources.meta_json import read_meta
from training.sources.options import Options
from training.sources.outcome import Item


def recognises(export: Export) -> bool:
    """Folders such as ``messages/inbox/anna_123/message_1.json`` or files such as ``Anna_7.json``."""
    return "messenger" in recognised(export)


def read(export: Export, options: Options) -> Iterator[Item]:
    """Every message of every conversation."""
    return read_meta(export, options, "messenger")
