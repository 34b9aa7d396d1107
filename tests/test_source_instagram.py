"""Instagram exports, where they differ from Messenger's."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given

from tests.histories import History, histories, imported, read
from tests.hostile import QUICK
from tests.test_source_messenger import FIXTURES, expected, told
from tests.writers.instagram import put_profile, write
from tests.writers.meta_json import ME, PEOPLE, put_thread


@QUICK
@given(histories())
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Who is me stands in the profile, under a key in the language of the account."""
    with TemporaryDirectory() as name:
        records = imported("auto", write(history, Path(name)), Path(name))

    assert told(list(records)) == expected(history, "instagram")
    assert {r.source for r in records} == {"instagram"}


def test_an_old_export_is_known_by_what_it_is_called(tmp_path: Path) -> None:
    """Its folders are those of Messenger."""
    said = [{"sender_name": ME, "timestamp_ms": 1, "content": "a"}]
    put_thread(tmp_path / "instagram-mia-2021/messages/inbox/jo_2", [PEOPLE[3], ME], said, PEOPLE[3])
    _, coverage = read("auto", tmp_path / "instagram-mia-2021", tmp_path, ME)

    assert coverage.source == "instagram"


def test_a_shared_post_is_media(tmp_path: Path) -> None:
    """Its caption is somebody else's; reactions come twice and are none of my words."""
    put_profile(tmp_path / "ig")
    said = [
        {"sender_name": ME, "content": "You sent an attachment.", "share": {"share_text": "caption", "link": "x"}},
        {"sender_name": PEOPLE[1], "content": "Liked a message"},
        {"sender_name": PEOPLE[1], "content": "Reacted 😍 to your message "},
        {"sender_name": "Instagram User", "content": "hi"},
    ]
    inbox = tmp_path / "ig/your_instagram_activity/messages/inbox"
    put_thread(inbox / "anna_1", [PEOPLE[1], ME], said, PEOPLE[1])
    records = imported("instagram", tmp_path / "ig", tmp_path)

    assert [(r.kind, r.text) for r in records] == [("text", "hi"), ("reaction", ""), ("reaction", ""), ("media", "")]
    assert {r.thread_kind for r in records} == {"dm"}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="samples of others lie outside the repository")
def test_samples_of_others(tmp_path: Path) -> None:
    """The counts that their README gives."""
    plain, _ = read("instagram", FIXTURES / "chat-miner/test_export.json", tmp_path, "John Doe")
    mangled, _ = read("instagram", FIXTURES / "extracted/instagram_chatlab_message_1.json", tmp_path, "小明")

    assert [(r.sender_name, f"{r.sent_at:%Y-%m-%dT%H:%M}") for r in sorted(plain, key=lambda r: str(r.sent_at))] == [
        ("Jane Doe", "2019-12-24T11:23"), ("John Doe", "2020-01-17T20:49"),
    ]  # fmt: skip
    assert [(r.sender_name, r.kind, r.text) for r in mangled] == [("小红", "system", ""), ("小明", "text", "你好")]
