"""Facebook Messenger exports: both layouts, who is me, what is said by people and what by the service."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import History, histories, imported, read, words
from tests.hostile import QUICK
from tests.writers.messenger import write
from tests.writers.meta_json import ME, PEOPLE, mangled, put, put_thread, write_encrypted
from training.records import Record
from training.sources import instagram, messenger
from training.sources.export import Export
from training.sources.meta_message import repaired
from training.sources.meta_phrases import service_kind

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT.parent / "shared" / "fixtures" / "messenger_instagram"
ANNA, BELA, JO = PEOPLE[1], PEOPLE[2], PEOPLE[3]


def told(records: list[Record]) -> list[tuple[object, ...]]:
    """Who said what where and when, each conversation in its order."""
    ordered = sorted(records, key=lambda r: (r.thread_id, r.sent_at is None, r.sent_at, r.order))
    return [(r.thread_name, r.thread_kind, r.sender_name, r.from_me, r.sent_at, r.text) for r in ordered]


def expected(history: History, source: str = "messenger") -> list[tuple[object, ...]]:
    """What ``told`` gives of *history*."""
    rows = []
    for number, said in enumerate(history.said):
        is_group = said.thread in history.groups
        name = f"Gruppe {said.thread}" if is_group else PEOPLE[said.thread + 1]
        thread = f"{source}:thread_{said.thread}" if is_group else f"{source}:{name}"
        kind = "group" if is_group else "dm"
        row = (name, kind, PEOPLE[said.sender], said.sender == 0, said.at, said.text)
        rows.append((thread, said.at, number, row))
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:3])]


@QUICK
@given(histories())
def test_a_history_comes_back_as_it_was_written(history: History) -> None:
    """Split over several files, newest first, every byte a character of its own."""
    with TemporaryDirectory() as name:
        records = imported("messenger", write(history, Path(name)), Path(name))

    assert told(list(records)) == expected(history)


@QUICK
@given(histories(words().filter(lambda text: repaired(text) == text), groups=False), st.booleans())
def test_an_encrypted_history_comes_back_as_it_was_written(history: History, newest_first: bool) -> None:
    """In either order, if its times show one. Nothing says whether a text is mojibake, so none may look like it."""
    times = {one.thread: {other.at for other in history.said if other.thread == one.thread} for one in history.said}
    newest_first = newest_first and all(len(moments) > 1 for moments in times.values())
    with TemporaryDirectory() as name:
        export = write_encrypted(history, Path(name) / "e2ee", newest_first)
        records = imported("messenger", export, Path(name), ME)

    assert told(list(records)) == expected(history)


def thread(
    folder: Path, messages: list[dict[str, Any]], names: tuple[str, ...] = (ANNA, ME), title: str = ANNA
) -> Path:
    """An export with one conversation; messages without a sender are Anna's, a minute apart, oldest first."""
    rows = [
        {"sender_name": ANNA, "timestamp_ms": 60_000 * number, **message} for number, message in enumerate(messages)
    ]
    put_thread(folder / "fb/messages/inbox/anna_1", list(names), rows, title)
    return folder / "fb"


def one(folder: Path, **message: Any) -> Record:
    """The record of a single message of Anna's, next to one of mine."""
    export = thread(folder, [{"sender_name": ME, "content": "x"}, message])
    return next(r for r in imported("messenger", export, folder, ME) if not (r.from_me and r.text == "x"))


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("d\u00c3\u00a9j\u00c3\u00a0", "déjà"),
        ("\u00f0\u009f\u008e\u0088", "🎈"),
        ("déjà", "déjà"),
        ("\u201cÃ©\u201d", "\u201cÃ©\u201d"),
        ("plain", "plain"),
    ],
)
def test_mojibake_is_repaired_only_where_it_is_some(text: str, after: str) -> None:
    """All characters below 0x100 and strict UTF-8 as bytes; all else stays."""
    assert repaired(text) == after


@pytest.mark.parametrize(
    ("message", "kind", "flags", "files"),
    [
        ({"content": "hej"}, "text", [], []),
        ({"content": "hej", "photos": [{"uri": "messages/photos/1.jpg"}]}, "text", [], ["1.jpg"]),
        ({"photos": [{"uri": "a/1.jpg"}, {"uri": "a/2.jpg"}]}, "media", [], ["1.jpg", "2.jpg"]),
        ({"sticker": {"uri": "a/s.png"}}, "media", ["sticker"], ["s.png"]),
        ({"gifs": [{"uri": "https://example.org/g.gif"}]}, "media", [], ["g.gif"]),
        ({"files": [{"uri": 7}, None, "x"]}, "media", [], [None]),
        ({"content": f"{ANNA} sent an attachment.", "share": {"link": "https://example.org"}}, "media", ["share"], []),
        ({"content": "Liked a message", "photos": [{"uri": "a/1.jpg"}]}, "media", [], ["1.jpg"]),
        ({"share": {"share_text": "not typed"}}, "media", ["share"], []),
        ({"content": "typed", "is_unsent": True}, "deleted", [], []),
        ({"content": f"{ANNA} missed your call.", "call_duration": 0, "missed": True}, "call", ["missed"], []),
        ({"content": "hej", "call_duration": 61}, "call", [], []),
        ({"content": "Anna left.", "type": "Unsubscribe"}, "system", [], []),
        ({"content": "Anna sent $5", "type": "Payment"}, "media", ["payment"], []),
        ({"content": "Reacted 🎈 to your message "}, "reaction", [], []),
        ({"content": ""}, "media", ["unavailable"], []),
        ({"content": ["no", "text"]}, "media", ["unavailable"], []),
        ({"ip": "192.0.2.1"}, "media", ["unavailable"], []),
    ],
)
def test_the_kind_of_a_message(
    tmp_path: Path, message: dict[str, Any], kind: str, flags: list[str], files: list[str | None]
) -> None:
    """By its fields, as recent exports have no type; only what was typed is text."""
    record = one(tmp_path, **message)

    assert (record.kind, record.flags, [file.name for file in record.attachments]) == (kind, flags, files)
    assert bool(record.text) == (kind == "text")


def test_neither_shared_texts_nor_addresses_are_carried_over(tmp_path: Path) -> None:
    """What a link says of itself is nobody's words; where somebody was online is nobody's business."""
    export = thread(
        tmp_path, [{"sender_name": ME, "content": "look", "share": {"share_text": "SECRET"}, "ip": "192.0.2.7"}]
    )
    imported("messenger", export, tmp_path, ME)
    written = (tmp_path / "out" / "imported.jsonl").read_text()

    assert "SECRET" not in written and "192.0.2.7" not in written


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("You are now connected on Messenger", "system"),
        ("The video chat ended.", "call"),
        ("Anna Lind sent an attachment.", "media"),
        ("Anna sent 3 photos.", "media"),
        ("Anna Lind set the nickname for Jo to Jojo.", "system"),
        ("Anna Lind named the group Klettern.", "system"),
        ("Anna Lind changed the theme to Love.", "system"),
        ("Anna Lind left the group.", "system"),
        ("Anna created a poll: Where?", "system"),
        ("Jo missed your call.", "call"),
        ("Alice added Bob to the group", "system"),
        ("Anna Lind unsent a message", "deleted"),
        ("Liked a message", "reaction"),
        ("Reacted ❤️ to your message ", "reaction"),
        ("Mia reacted 👍 to your message", "reaction"),
        ("Hat mit 😂 auf deine Nachricht reagiert", "reaction"),
        ("Anna hat einen Anhang gesendet.", "media"),
        ("Anna Lind hat das Design geändert.", "system"),
    ],
)
def test_sentences_of_the_service(text: str, kind: str) -> None:
    """Known as a whole, in several languages."""
    assert service_kind(text, ANNA, {"Jo", "Anna Lind"}, mine=False) == kind


@pytest.mark.parametrize(
    "text",
    [
        "I left the group.", "Ana added sugar", "Loved by all", "added", "Reacted", "Reacted badly to your message",
        "I added Bob to the group", "Bob added me to the group", "You sent a photo.", "did you see Jo left the group?",
        "Sorry I missed your call", "he called you", "Anna", "Anna Lind sent an attachment.\nyes", "Jo sent a photo.",
        "Anna added sugar to the group's cake", "Anna Lind is me", "video call?", "I liked a message",
    ],
)  # fmt: skip
def test_what_people_type_is_no_sentence_of_the_service(text: str) -> None:
    """Words that only resemble one, or name somebody else than the sender."""
    assert service_kind(text, ANNA, {"Jo", "Anna Lind"}, mine=False) is None


def test_my_own_service_sentences_begin_with_you() -> None:
    """And end with a full stop, which tells them from a question."""
    assert service_kind("You sent a photo.", ME, set(), mine=True) == "media"
    assert service_kind("You sent a photo", ME, set(), mine=True) is None


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """10 after 2; within one moment the earlier line of a newest-first file is the later message."""
    said = [{"sender_name": ME, "timestamp_ms": 1000, "content": str(number)} for number in range(11)]
    put_thread(tmp_path / "fb/inbox/anna_1", [ANNA, ME], said, ANNA, per_file=1)
    records = imported("messenger", tmp_path / "fb", tmp_path, ME)

    assert [r.text for r in sorted(records, key=lambda r: r.order)] == [str(number) for number in range(11)]


def test_the_one_person_in_every_conversation_is_me(tmp_path: Path) -> None:
    """And the report says so, as it is a guess."""
    export = thread(tmp_path, [{"content": "a"}, {"sender_name": ME, "content": "b"}])
    put_thread(export / "messages/e2ee_cutover/jo_2", [JO, ME], [{"sender_name": JO, "content": "c"}], JO)
    records, coverage = read("messenger", export, tmp_path)

    assert {r.text for r in records if r.from_me} == {"b"}
    assert any(ME in note for note in coverage.notes)


def test_one_conversation_of_two_cannot_say_who_is_me(tmp_path: Path) -> None:
    """The question names both, the one whom the title does not name first."""
    with pytest.raises(DataRefused) as refused:
        imported("messenger", thread(tmp_path, [{"content": "a"}, {"sender_name": ME, "content": "b"}]), tmp_path)

    assert (refused.value.code, refused.value.details) == ("who_is_me", [ME, ANNA])


def test_what_the_user_says_wins_over_the_profile(tmp_path: Path) -> None:
    """``--me`` names Anna in Mia's export."""
    export = thread(tmp_path, [{"content": "a"}, {"sender_name": ME, "content": "b"}])
    name = {"profile_v2": {"name": {"full_name": ME}}}
    put(export / "personal_information/profile_information/profile_information.json", mangled(name))

    assert [r.from_me for r in imported("messenger", export, tmp_path)] == [True, False]
    assert [r.from_me for r in imported("messenger", export, tmp_path, ANNA)] == [False, True]


def test_people_are_counted_not_fields(tmp_path: Path) -> None:
    """A ``joinable_mode`` makes no group of two people; a third person does, also one who has left."""
    document = {"participants": [{"name": ANNA}, {"name": "Ben"}], "joinable_mode": {"mode": 1}, "title": "us"}
    said = [{"sender_name": ANNA, "timestamp_ms": 1, "content": "a"}, {"sender_name": "Ben", "content": "b"}]
    two = put(tmp_path / "two/message_1.json", {**document, "messages": said})
    left = put(tmp_path / "left/message_1.json", {**document, "messages": [*said, {"sender_name": JO, "content": "c"}]})

    assert {r.thread_kind for r in imported("messenger", two, tmp_path, "Ben")} == {"dm"}
    assert {r.thread_kind for r in imported("messenger", left, tmp_path, "Ben")} == {"group"}


def test_both_halves_of_a_conversation_are_one(tmp_path: Path) -> None:
    """The encrypted one goes on where the other stops; what both hold comes once, a group is found by its people."""
    same = {"content": "both", "timestamp_ms": 5000}
    export = thread(tmp_path, [{"content": "before", "timestamp_ms": 1000}, same])
    put_thread(export / "messages/inbox/us_2", [ANNA, JO, ME], [{"sender_name": JO, "content": "g"}], "Us")
    rows = [
        {"senderName": ANNA, "text": "both", "timestamp": 5000, "type": "text"},
        {"senderName": ME, "text": "after", "timestamp": 9000, "type": "text"},
    ]
    put(
        tmp_path / "fb/e2ee/Anna Lind_7.json",
        {"participants": [ANNA, ME], "threadName": "Anna Lind_7", "messages": rows},
    )
    group = {"participants": [ME, JO, ANNA], "threadName": "Us_8", "messages": [{"senderName": ME, "text": "h"}]}
    put(tmp_path / "fb/e2ee/Us_8.json", group)
    records, coverage = read("messenger", export, tmp_path, ME)
    ordered = sorted(records, key=lambda r: (r.thread_id, r.sent_at is None, r.sent_at, r.order))

    assert [(r.thread_id, r.text) for r in ordered if r.thread_kind == "dm"] == [
        (f"messenger:{ANNA}", text) for text in ("before", "both", "after")
    ]
    assert {(r.thread_id, r.text) for r in ordered if r.thread_kind == "group"} == {
        ("messenger:us_2", "g"), ("messenger:us_2", "h"),
    }  # fmt: skip
    assert coverage.skipped == {"duplicate": 1}


def test_equal_messages_of_one_file_are_two(tmp_path: Path) -> None:
    """People do say "ok" twice."""
    said = {"sender_name": ME, "content": "ok", "timestamp_ms": 1000}

    assert len(imported("messenger", thread(tmp_path, [said, said]), tmp_path, ME)) == 2


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ({"text": "hej", "type": "text"}, "text", "hej"),
        ({"text": "d\u00c3\u00a9j\u00c3\u00a0", "type": "text"}, "text", "déjà"),
        ({"text": "https://example.org", "type": "link"}, "text", "https://example.org"),
        ({"text": "", "type": "media", "media": [{"uri": "./media/a.ogg"}]}, "media", ""),
        ({"text": "", "type": "media", "media": [{"uri": "Failed to download media"}]}, "media", ""),
        ({"text": "This message was unsent", "type": "placeholder", "isUnsent": True}, "deleted", ""),
        ({"text": "not supported", "type": "placeholder", "isUnsent": False}, "media", ""),
        ({"text": "User unsent a message", "type": "text"}, "deleted", ""),
    ],
)
def test_kinds_of_encrypted_messages(tmp_path: Path, message: dict[str, Any], kind: str, text: str) -> None:
    """Other names for the same things."""
    rows = [{"senderName": ME, "timestamp": 1000, "isUnsent": False, **message}, {"senderName": ME, "text": "x"}]
    path = put(tmp_path / "Anna Lind_7.json", {"participants": [ANNA, ME], "threadName": "x", "messages": rows})
    record = imported("messenger", path, tmp_path, ME)[0]

    assert (record.kind, record.text, record.thread_id) == (kind, text, f"messenger:{ANNA}")


def test_deleted_accounts_are_not_one_person(tmp_path: Path) -> None:
    """All of them are called the same."""
    for number in (1, 2):
        said = [{"sender_name": "Facebook user", "content": "a"}, {"sender_name": ME, "content": "b"}]
        put_thread(tmp_path / f"fb/inbox/x_{number}", ["Facebook user", ME], said, "Facebook user")
    records = imported("messenger", tmp_path / "fb", tmp_path, ME)

    assert {r.thread_id for r in records} == {f"messenger:Facebook user in x_{number}" for number in (1, 2)}
    assert {r.thread_kind for r in records} == {"dm"}


def test_people_of_one_name_are_taken_for_one_and_it_is_said(tmp_path: Path) -> None:
    """A name is all that Messenger tells; a conversation that was cut over to encryption is no reason to wonder."""
    for folder in ("inbox/jo_1", "inbox/jo_2", "e2ee_cutover/anna_3", "inbox/anna_4"):
        name = ANNA if "anna" in folder else JO
        put_thread(tmp_path / "fb" / folder, [name, ME], [{"sender_name": ME, "content": "a"}], name)
    records, coverage = read("messenger", tmp_path / "fb", tmp_path, ME)

    assert {r.thread_id for r in records} == {f"messenger:{JO}", f"messenger:{ANNA}"}
    assert [note for note in coverage.notes if note.startswith("1 names")]


def test_notes_to_myself_are_no_conversation(tmp_path: Path) -> None:
    """They are counted, not kept."""
    put_thread(tmp_path / "fb/inbox/mia_3", [ME], [{"sender_name": ME, "content": "milk"}], ME)
    export = thread(tmp_path, [{"sender_name": ME, "content": "a"}])
    records, coverage = read("messenger", export, tmp_path, ME)

    assert ([r.text for r in records], coverage.skipped) == (["a"], {"self_chat": 1})


def test_a_damaged_file_does_not_stop_its_siblings(tmp_path: Path) -> None:
    """What is whole in it is kept as well, and it is said which file it is."""
    export = thread(tmp_path, [{"content": "a"}, {"sender_name": ME, "content": "b"}])
    put_thread(export / "messages/inbox/jo_2", [JO, ME], [{"sender_name": ME, "content": "c"}], JO)
    damaged = export / "messages/inbox/anna_1/message_1.json"
    damaged.write_bytes(damaged.read_bytes().partition(b'}, {"sender_name": "Anna')[0] + b"}, {")
    (export / "messages/inbox/bad_3").mkdir()
    (export / "messages/inbox/bad_3/message_1.json").write_text('{"participants": []}')
    records, coverage = read("messenger", export, tmp_path, ME)

    assert {r.text for r in records} == {"b", "c"}
    assert coverage.not_understood == 2
    assert "anna_1/message_1.json" in coverage.where[0] and "bad_3" in coverage.where[1]


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    """Some exports begin with one."""
    export = thread(tmp_path, [{"sender_name": ME, "content": "a"}])
    (file,) = export.rglob("*.json")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    records, coverage = read("auto", export, tmp_path, ME)

    assert ([r.text for r in records], coverage.not_understood) == (["a"], 0)


@pytest.mark.parametrize("message", [7, None, [], {"content": "x"}, {"sender_name": None}, {"sender_name": ["Anna"]}])
def test_a_message_of_nobody_is_not_understood(tmp_path: Path, message: Any) -> None:
    """It is counted where it stands, and its neighbours are kept."""
    document = {
        "participants": [{"name": ANNA}, {"name": ME}],
        "messages": [message, {"sender_name": ME, "content": "x"}],
    }
    records, coverage = read("messenger", put(tmp_path / "message_1.json", mangled(document)), tmp_path, ME)

    assert (len(records), coverage.not_understood) == (1, 1)
    assert coverage.where == ["message_1.json message 1: nobody sent it"]


@pytest.mark.parametrize("time", [None, "soon", True, 10**18, -(10**18), 1e300, [], {}])
def test_a_time_that_is_none_is_counted(tmp_path: Path, time: Any) -> None:
    """The message keeps its place in the file."""
    records, coverage = read(
        "messenger", thread(tmp_path, [{"sender_name": ME, "content": "a", "timestamp_ms": time}]), tmp_path, ME
    )

    assert [r.sent_at for r in records] == [None]
    assert "1 messages have no readable time" in coverage.notes


def test_an_html_export_is_refused_with_advice(tmp_path: Path) -> None:
    """Where both are there, the JSON is read and the rest said."""
    page = tmp_path / "fb/messages/inbox/anna_1/message_1.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html></html>")
    with pytest.raises(DataRefused) as refused:
        imported("auto", tmp_path / "fb", tmp_path)
    put_thread(tmp_path / "fb/messages/inbox/jo_2", [JO, ME], [{"sender_name": ME, "content": "a"}], JO)
    records, coverage = read("auto", tmp_path / "fb", tmp_path, ME)

    assert refused.value.code == "html_export" and "JSON" in refused.value.message
    assert len(records) == 1 and any("HTML" in note for note in coverage.notes)


@pytest.mark.parametrize(
    "root", ["your_activity_across_facebook/messages", "your_facebook_activity/messages", "messages", ""]
)
@pytest.mark.parametrize(
    "section", ["inbox", "archived_threads", "filtered_threads", "message_requests", "e2ee_cutover"]
)
def test_every_root_and_section_is_found(tmp_path: Path, root: str, section: str) -> None:
    """Also in a zip."""
    put_thread(tmp_path / "x" / root / section / "jo_2", [JO, ME], [{"sender_name": ME, "content": "a"}], JO)
    (file,) = (tmp_path / "x").rglob("*.json")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(file, file.relative_to(tmp_path / "x"))

    assert len(imported("auto", tmp_path / "x", tmp_path, ME)) == 1
    assert len(imported("auto", tmp_path / "x.zip", tmp_path, ME)) == 1


def test_other_json_files_of_the_export_are_no_conversations(tmp_path: Path) -> None:
    """Posts and settings lie beside the messages."""
    export = thread(tmp_path, [{"sender_name": ME, "content": "a"}])
    put(export / "posts/your_posts_1.json", [{"timestamp": 1, "data": [{"post": "x"}]}])
    put(export / "messages/autofill_information.json", {"media": []})
    records, coverage = read("messenger", export, tmp_path, ME)

    assert (len(records), coverage.not_understood) == (1, 0)


def test_the_two_platforms_are_told_apart(tmp_path: Path) -> None:
    """By their folders; each importer leaves the other's files, and says so."""
    for root in ("your_facebook_activity", "your_instagram_activity"):
        put_thread(tmp_path / "x" / root / "messages/inbox/jo_2", [JO, ME], [{"sender_name": ME, "content": root}], JO)
    export = Export(tmp_path / "x")
    records, coverage = read("messenger", tmp_path / "x", tmp_path, ME)

    assert messenger.recognises(export) and instagram.recognises(export)
    assert [r.text for r in records] == ["your_facebook_activity"]
    assert any("other platform" in note for note in coverage.notes)


def test_foreign_json_is_not_recognised(tmp_path: Path) -> None:
    """Neither a chat of another program nor anything else with numbers in its name."""
    put(tmp_path / "x/result.json", {"name": "Jo", "type": "personal_chat", "messages": []})
    put(tmp_path / "x/posts_1.json", {"messages": [{"user": "U1", "text": "participants"}]})

    assert not messenger.recognises(Export(tmp_path / "x")) and not instagram.recognises(Export(tmp_path / "x"))


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="samples of others lie outside the repository")
@pytest.mark.parametrize(
    ("name", "me", "kinds", "mine"),
    [
        ("chat-analytics/2A_7M.json", "Bob", {"text": 3, "media": 4}, 5),
        ("langchain-community/facebook_chat.json", "User 2", {"text": 10, "media": 1}, 6),
    ],
)
def test_samples_of_others(tmp_path: Path, name: str, me: str, kinds: dict[str, int], mine: int) -> None:
    """The counts that their README gives; each is one direct conversation."""
    records, coverage = read("auto", FIXTURES / name, tmp_path, me)

    assert (coverage.source, coverage.kinds, coverage.mine) == ("messenger", kinds, mine)
    assert {r.thread_kind for r in records} == {"dm"} and not coverage.not_understood
