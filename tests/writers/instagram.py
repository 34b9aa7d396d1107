"""Exports of Instagram."""

from pathlib import Path

from tests.fuzz_source import Sample
from tests.histories import History
from tests.writers.meta_json import ME, PEOPLE, mangled, put, put_thread, some_of_everything, write_meta


def write(history: History, folder: Path) -> Path:
    """*history* as Instagram exports it, with the file that says who the owner is."""
    put_profile(folder / "ig")
    write_meta(history, folder / "ig" / "your_instagram_activity")
    return folder / "ig"


def put_profile(folder: Path) -> None:
    """The owner's profile; its keys are in the language of the account."""
    values = {"E-Mail": {"value": "mia@example.org"}, "Navn": {"value": ME}, "Brukernavn": {"value": "mia.s"}}
    profile = {"profile_user": [{"string_map_data": values}]}
    put(folder / "personal_information/personal_information/personal_information.json", mangled(profile))


def sample(folder: Path) -> Sample:
    """A direct conversation in two files."""
    thread = folder / "ig/your_instagram_activity/messages/inbox/annalind_1"
    put_profile(folder / "ig")
    put_thread(thread, [PEOPLE[1], ME], some_of_everything("your_instagram_activity"), PEOPLE[1], per_file=6)
    return Sample(folder / "ig")
