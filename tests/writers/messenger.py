"""Exports of Facebook Messenger."""

from pathlib import Path

from tests.fuzz_source import Sample
from tests.histories import History
from tests.writers.meta_json import ME, PEOPLE, mangled, put, put_thread, some_of_everything, write_meta


def write(history: History, folder: Path) -> Path:
    """*history* as Facebook exports it, with the file that says who the owner is."""
    name = {"profile_v2": {"name": {"full_name": ME, "first_name": "Mia"}, "family_members": [{"name": PEOPLE[1]}]}}
    put(folder / "fb" / "personal_information/profile_information/profile_information.json", mangled(name))
    write_meta(history, folder / "fb" / "your_facebook_activity")
    return folder / "fb"


def sample(folder: Path) -> Sample:
    """A direct conversation in two files, a group, and the encrypted half of the first."""
    inbox = folder / "fb/your_facebook_activity/messages/inbox"
    put_thread(inbox / "anna_1", [PEOPLE[1], ME], some_of_everything("messages"), PEOPLE[1], per_file=6)
    said = [{"sender_name": PEOPLE[i], "timestamp_ms": 1_700_000_000_000 + i, "content": "hej"} for i in (0, 2, 3)]
    put_thread(inbox / "gruppe_2", [ME, PEOPLE[2], PEOPLE[3]], said, "Gruppe")
    rows = [
        {"senderName": ME, "timestamp": 1_700_100_000_000, "text": "noch da?", "type": "text", "isUnsent": False},
        {"senderName": "Anna Lind", "timestamp": 1_700_100_060_000, "text": "", "media": [{"uri": "./media/a.ogg"}]},
    ]
    put(
        folder / "fb/messages/Anna Lind_4.json",
        {"participants": ["Anna Lind", ME], "threadName": "Anna Lind_4", "messages": rows},
    )
    return Sample(folder / "fb")
