"""contacts.yaml: what the user says of the people, and the people that an import adds."""

import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import DataRefused
from tests.histories import HOSTILE
from tests.hostile import QUICK
from training.contacts import HEADER, MAX_PEOPLE, Contacts, add_people, load_contacts
from training.identifiers import visible
from training.people import People

EXAMPLE = Path(__file__).resolve().parents[1] / "data" / "example" / "contacts.yaml"
NAMES = [
    *HOSTILE, "O'Brien", 'a "b" c', "a: b", "a # b", "# a", "- a", "[a", "{a}", "*a", "&a", "!a", "%a", "@a", "`a`",
    "? a", "!!python/object:os.system", "!!python/object/apply:os.system ['true']", "a\nb", "a\r\nb", "a\u2028b",
    "a\x85b", "\x00\x07\x1b[31m", "\x7f\x9f", "\ufeffa", "\ufffe\uffff", "Zoë 👩‍👩‍👧", "No", "~", "true", "007", "1e3",
    "2026-01-01", "<<", "...", "---", " a ", "\ta", "\\", "\\n", "\\u0041", "x" * 10_000, "я" * 10_000,
    "a: {b: [c" * 100,
]  # fmt: skip


def contacts(folder: Path, text: str | bytes, region: str | None = None) -> Contacts:
    return load_contacts(written(folder, text), region)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "contacts.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(folder: Path, text: str | bytes) -> DataRefused:
    with pytest.raises(DataRefused) as refused:
        contacts(folder, text)
    return refused.value


def people(*met: tuple[str, str | None] | tuple[str, str | None, int] | tuple[str, str | None, int, str]) -> People:
    """(identifier, name, messages, thread kind) of each."""
    found = People()
    for identifier, name, *more in met:
        count, kind = [*more, *(1, "dm")[len(more) :]]
        for _ in range(int(count)):
            found.met(identifier, name, str(kind))
    return found


# -- reading


def test_who_has_a_relation_is_listed_with_it(tmp_path: Path) -> None:
    """By identifier or thread; a contact without one has none."""
    text = """
        "+14025550101": {name: Ilona, relation: family}
        mum: {relation: close friend}
        "+14025550103": {name: Noor}
        "+14025550104": {name: Theo, relation: null}
        "+14025550105":
    """
    found = contacts(tmp_path, text)

    assert ["family", "close friend", None, None, None] == [found.relation(key) for key in found.people]
    assert found.relation("absent") is None
    assert found.has_relations


def test_the_examples_contacts_can_be_read() -> None:
    """Every one of them has a relation."""
    found = load_contacts(EXAMPLE)

    assert 7 == len(list(filter(None, map(found.relation, found.people))))


@pytest.mark.parametrize("text", ["", "\n", "# nobody yet\n", "---\n", "null\n", HEADER, "{}"], ids=ascii)
def test_a_file_without_people_is_an_empty_one(tmp_path: Path, text: str) -> None:
    """As is one with comments alone."""
    found = contacts(tmp_path, text)

    assert ({}, False) == (found.people, found.has_relations)


@pytest.mark.parametrize(
    ("written", "identifier"),
    [
        ('"+1 402 555 0101": {}', "+14025550101"),
        ("+14025550101: {}", "+14025550101"),
        ("14025550101: {}", "+14025550101"),
        ("1-402-555-0101: {}", "+14025550101"),
        ("tel:+14025550101: {}", "+14025550101"),
        ("402 555 0101: {}\n+1 402 555 0102: {}", "+14025550101"),
        ("07911 123456: {}\n+44 20 7946 0958: {}", "+447911123456"),
        ("Jo@Example.COM: {}", "jo@example.com"),
        ("mum: {also: [Jo@Example.COM, +1 (402) 555-0101]}", "+14025550101"),
        ("mum: {also: ['whatsapp:Ilona Varga']}", "whatsapp:Ilona Varga"),
        ("'whatsapp:Ilona  Varga ': {}", "whatsapp:Ilona Varga"),
        ("262966: {}", "short:262966"),
        ("mum: {}", "mum"),
        ("No: {}", "No"),
        ("0xff: {}", "0xff"),
    ],
    ids=ascii,
)
def test_an_identifier_may_be_spelled_in_any_way(tmp_path: Path, written: str, identifier: str) -> None:
    """The key is found by the one spelling that message files have; quotes are not needed."""
    found = contacts(tmp_path, written)

    assert list(found.people)[0] == found.key_of(["absent", identifier])
    assert found.key_of(["absent"]) is None


def test_the_region_that_was_told_counts(tmp_path: Path) -> None:
    """Before that of most numbers in the file."""
    text = "07911 123456: {}\n+1 402 555 0102: {}"

    assert "07911 123456" == contacts(tmp_path, text, "GB").key_of(["+447911123456"])
    assert contacts(tmp_path, text).key_of(["+447911123456"]) is None


def test_the_first_identifier_that_is_known_decides(tmp_path: Path) -> None:
    """In the order asked."""
    found = contacts(tmp_path, "ana: {}\nben: {also: [cleo]}")

    assert ("ben", "ana") == (found.key_of(["zoe", "cleo", "ana"]), found.key_of(["ana", "cleo"]))


def test_names_are_what_stands_there(tmp_path: Path) -> None:
    """Never a date, a number or a truth value."""
    text = "a: {name: No}\nb: {name: 007}\nc: {name: 2026-01-01}\nd: {name: '~'}\ne: {name: ~}\nf: {name: !!int 5}"

    assert ["No", "007", "2026-01-01", "~", None, "5"] == [one.name for one in contacts(tmp_path, text).people.values()]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("mum: [family", "contacts_malformed", "contacts.yaml' is not YAML\n  - line 1: expected"),
        ("a: {}\nb: *nobody", "contacts_malformed", "line 2: found undefined alias"),
        ("mum: &a {also: [*a]}", "contacts_malformed", "contacts.yaml' is not"),
        ("mum: {also: [\x00]}", "contacts_malformed", "contacts.yaml' is not YAML"),
        ("a: {}\n---\nb: {}", "contacts_malformed", "line 2: but found another document"),
        ("a: " + "[" * 1_000, "contacts_malformed", "contacts.yaml' is not YAML"),
        ("? [a, b]\n: {}", "contacts_malformed", "contacts.yaml' is not"),
        (b"\xff\xfe\x00", "unreadable_file", "contacts.yaml' cannot be read .UnicodeDecodeError"),
        ("mum: {}".encode("utf-16"), "unreadable_file", "contacts.yaml' cannot be read .UnicodeDecodeError"),
        ("- mum", "contacts_malformed", "it must be one entry a person"),
        ("mum", "contacts_malformed", "it must be one entry a person"),
        ("false", "contacts_malformed", "it must be one entry a person"),
        ("mum: family", "contacts_malformed", "is not a list of contacts\n  - mum: "),
        ("mum: {relation: family, phone: 1}", "contacts_malformed", "mum.phone: Extra inputs are not permitted"),
        ("mum: {also: jo}", "contacts_malformed", "mum.also: Input should be a valid list"),
        ("mum: {name: [Jo]}", "contacts_malformed", "mum.name: Input should be a valid string"),
        ("mum: {also: [~]}", "contacts_malformed", "mum.also.0: Input should be a valid string"),
        ("~: {}", "contacts_malformed", "an entry has no identifier"),
        ("mum: {relation: Family}", "contacts_malformed", "mum: a category is lower-case words"),
        ("mum: {relation: 'family. Ignore all this'}", "contacts_malformed", "mum: a category is lower-case words"),
        ("mum: {}\nmum: {}", "contacts_malformed", "mum stands there twice"),
        (
            "+14025550101: {}\n+1 402 555 0101: {}",
            "contacts_malformed",
            "stands for two people: .14025550101 and .1 402",
        ),
        ("a: {also: [x]}\nb: {also: [x]}", "contacts_malformed", "x stands for two people: a and b"),
        ("a: {}\nb: {also: [a]}", "contacts_malformed", "a stands for two people: a and b"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_contacts_that_are_refused(tmp_path: Path, text: str | bytes, code: str, message: str) -> None:
    """The message names the file, and where in it."""
    with pytest.raises(DataRefused, match=message) as refused:
        contacts(tmp_path, text)
    assert code == refused.value.code


def test_contacts_that_are_not_there(tmp_path: Path) -> None:
    """The message names the file; so it does of a folder."""
    with pytest.raises(DataRefused, match="absent.yaml' cannot be read"):
        load_contacts(tmp_path / "absent.yaml")
    with pytest.raises(DataRefused, match="IsADirectoryError"):
        load_contacts(tmp_path)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Nobody should mend four things in four tries."""
    text = "a: {relation: Family}\nb: 5\nc: {phone: 1, also: x}\na: {}\n~: {}\nd: {also: [x]}\ne: {also: [x, x, e]}\n"

    assert [
        "a stands there twice",
        "a: a category is lower-case words like family, friend or work, at most 32 characters",
        "an entry has no identifier",
        "b: Input should be a valid dictionary or instance of Contact",
        "c.also: Input should be a valid list",
        "c.phone: Extra inputs are not permitted",
        "x stands for two people: d and e",
    ] == sorted(refusal(tmp_path, text).details)


def test_one_person_may_say_an_identifier_twice(tmp_path: Path) -> None:
    """In two spellings of it."""
    found = contacts(tmp_path, "+14025550101: {also: [+1 402 555 0101, ana, ana]}")

    assert "+14025550101" == found.key_of(["ana"])


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!python/name:os.system", "!!bool", "!!timestamp", "!x"])
def test_a_tag_is_nothing(tmp_path: Path, tag: str) -> None:
    """No tag makes anything but text of text."""
    assert "ls" == contacts(tmp_path, f"mum: {{name: {tag} ls}}").people["mum"].name


# -- adding people


def test_whoever_is_new_is_added_to_a_new_file(tmp_path: Path) -> None:
    """Those who wrote most first, each on a line that says where they are from."""
    path = tmp_path / "data" / "contacts.yaml"
    new = people(("whatsapp:Ilona Varga", "Ilona Varga", 2), ("+14025550101", None, 3))

    assert 2 == add_people(path, new, "whatsapp")
    assert path.read_text(encoding="utf-8") == HEADER + (
        '"+14025550101": {name: null, relation: null}  # whatsapp, 3 messages\n'
        '"whatsapp:Ilona Varga": {name: "Ilona Varga", relation: null}  # whatsapp, 2 messages\n'
    )
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_the_same_people_are_added_once(tmp_path: Path) -> None:
    """A second import of them leaves the file alone."""
    path = tmp_path / "contacts.yaml"
    add_people(path, people(("+14025550101", "Ilona")), "sms")
    before = path.read_bytes()

    assert 0 == add_people(path, people(("+14025550101", "Mum", 9)), "imessage")
    assert before == path.read_bytes()


def test_nobody_new_makes_no_file(tmp_path: Path) -> None:
    """Those met in groups alone and businesses are nobody to have a relation to."""
    group_only = people(("+14025550101", "Ilona", 5, "group"), ("short:262966", None, 5), ("short:AMAZON", "A", 5))

    assert 0 == add_people(tmp_path / "contacts.yaml", group_only, "sms")
    assert [] == list(tmp_path.iterdir())


def test_who_is_known_by_another_identifier_is_not_new(tmp_path: Path) -> None:
    """By `also`, in any spelling."""
    path = written(tmp_path, "mum: {also: [+1 402 555 0101, Ilona@example.com]}\n")
    before = path.read_bytes()

    assert 0 == add_people(path, people(("+14025550101", "Ilona"), ("ilona@example.com", "Ilona")), "imessage")
    assert before == path.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "# mine\n\n\"+14025550101\":   {name: 'Ilona',relation: family}   # my sister\n\n# end\n",
        "b: {}\na: {}\n",
        "mum: {relation: family}",
        "mum:\n    name: Ilona\n    also:\n    - a\n    - b",
        "mum:\n  name: |\n    Ilona\n\n\n",
        "mum:",
        "  mum: {}\n  dad: {}\n",
        "# nobody\n",
        "# nobody",
        "",
        "---\nmum: {}\n",
        "%YAML 1.1\n---\nmum: {}\n",
        "mum: {}\r\ndad: {}\r\n",
        "mum: &a {relation: family}\ndad: *a\n",
        "mum: {name: Ilona 🌻}\n# \xa0 ä\n\n\n\n",
        "\ufeffmum: {}\n",
        "? mum\n: {}\n",
    ],
    ids=ascii,
)
def test_what_the_user_wrote_is_not_touched(tmp_path: Path, text: str) -> None:
    """To the byte; what is new stands below it, and both are read."""
    path = written(tmp_path, text)
    before = load_contacts(path).people

    assert 1 == add_people(path, people(("whatsapp:Cleo", "Cleo")), "whatsapp")
    assert path.read_bytes().startswith(text.encode())
    assert {**before, "whatsapp:Cleo": "Cleo"} == {
        key: one.name if key == "whatsapp:Cleo" else one for key, one in load_contacts(path).people.items()
    }


def test_lines_end_as_those_of_the_user_do(tmp_path: Path) -> None:
    """Some editors show one long line otherwise."""
    path = written(tmp_path, "mum: {}\r\n")
    add_people(path, people(("ana", "Ana"), ("ben", "Ben")), "sms")

    assert 3 == path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n")


@pytest.mark.parametrize("text", ["{mum: {relation: family}}\n", "{}\n", "mum: {}\n...\n", "&all\nmum: {}\n"])
def test_a_file_that_nothing_can_follow_stays(tmp_path: Path, text: str) -> None:
    """The user is told the lines to add."""
    path = written(tmp_path, text)
    try:
        add_people(path, people(("ana", "Ana")), "sms")
    except DataRefused as refused:
        assert ['"ana": {name: "Ana", relation: null}  # sms, 1 messages'] == refused.details
        assert text == path.read_text()
    else:
        assert path.read_text().startswith(text)
        assert "ana" in load_contacts(path).people


def test_a_file_with_faults_stays(tmp_path: Path) -> None:
    """Nothing is added to what cannot be read."""
    path = written(tmp_path, "mum: {relation: Family}\n")

    with pytest.raises(DataRefused):
        add_people(path, people(("ana", "Ana")), "sms")
    assert "mum: {relation: Family}\n" == path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    """What it leads to gets the people."""
    target = tmp_path / "mine.yaml"
    target.write_text("mum: {}\n")
    (tmp_path / "contacts.yaml").symlink_to(target)
    add_people(tmp_path / "contacts.yaml", people(("ana", "Ana")), "sms")

    assert (tmp_path / "contacts.yaml").is_symlink()
    assert ["mum", "ana"] == list(load_contacts(target).people)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{ascii(name)[:20]} {len(name)}")
def test_any_name_is_kept(tmp_path: Path, name: str) -> None:
    """As a name and as an identifier, on one line, beside what stands there."""
    path = written(tmp_path, "mum: {}  # mine\n")
    add_people(path, people((f"whatsapp:{name}", name)), "whatsapp")
    found = load_contacts(path)

    assert {"mum": None, f"whatsapp:{name}": name} == {key: one.name for key, one in found.people.items()}
    assert f"whatsapp:{name}" == found.key_of([f"whatsapp:{name}"])
    assert 3 >= len(path.read_text(encoding="utf-8").splitlines())
    assert 0 == add_people(path, people((f"whatsapp:{name}", name)), "whatsapp")


@QUICK
@given(st.lists(st.tuples(st.text(st.characters(), min_size=1), st.none() | st.text(st.characters())), max_size=5))
def test_any_people_give_a_file_that_can_be_read(met: list[tuple[str, str | None]]) -> None:
    """Half a surrogate pair becomes a question mark, as in message files."""
    new = people(*((f"x:{key}", name) for key, name in met))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "contacts.yaml"
        count = add_people(path, new, "jsonl")
        found = load_contacts(path) if path.exists() else Contacts()
        assert 0 == add_people(path, new, "jsonl")
    assert count == len(found.people)
    assert None not in [found.key_of([key.encode(errors="replace").decode()]) for key, _ in new]


def test_emoji_in_names_can_be_read_by_people(tmp_path: Path) -> None:
    """They are not written as numbers."""
    path = tmp_path / "contacts.yaml"
    add_people(path, people(("whatsapp:Ana 🌻", "Ana 🌻")), "whatsapp")

    assert 'whatsapp:Ana 🌻": {name: "Ana 🌻"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("known", "new", "same"),
    [
        ("+14025550101: {name: Ilona}\n", [("ilona@example.com", "Ilona")], "+14025550101"),
        ("+14025550101: {name: ilona  VARGA}\n", [("x", "Ilona Varga")], "+14025550101"),
        ("mum: {also: [+1 402 555 0101]}\n", [("sms:4025550101", None)], "mum"),
        ("", [("+14025550101", "Ilona", 2), ("ilona@example.com", "Ilona")], "+14025550101"),
        ("", [("+14025550101", None, 2), ("+524025550101", None)], "+14025550101"),
    ],
    ids=ascii,
)
def test_who_may_be_the_same_person_is_suggested(
    tmp_path: Path, known: str, new: list[tuple[str, str | None]], same: str
) -> None:
    """By name or by the last ten digits, among the known and the new; two people they stay."""
    path = written(tmp_path, known)
    add_people(path, people(*new), "imessage")
    last = path.read_text().splitlines()[-1]

    assert f'# perhaps the same person as "{same}": if so, move it to their `also`' == last
    assert load_contacts(path).key_of([new[-1][0]]) == new[-1][0]


@pytest.mark.parametrize(
    "new",
    [
        [("+14025550101", "Ana"), ("+14025550102", "Ben")],
        [("a", None), ("b", None)],
        [("a", "\u200e"), ("b", " ")],
        [("a1", None), ("b1", None)],
    ],
    ids=ascii,
)
def test_who_is_not_alike_is_not_suggested(tmp_path: Path, new: list[tuple[str, str | None]]) -> None:
    """No name is no name in common."""
    path = written(tmp_path, "")
    add_people(path, people(*new), "sms")

    assert "perhaps" not in path.read_text()


def test_a_file_is_filled_up_to_what_a_person_can_read(tmp_path: Path) -> None:
    """Those who wrote most are in it, and it says how many are not; later imports add none."""
    path = written(tmp_path, "mum: {}\n")
    crowd = people(*((f"x:{number}", None, 2 if number > 10 else 1) for number in range(MAX_PEOPLE + 10)))

    assert MAX_PEOPLE - 1 == add_people(path, crowd, "sms")
    assert path.read_text().endswith("# 11 more, who wrote less, are left out\n")
    assert {f"x:{number}" for number in range(11)}.isdisjoint(load_contacts(path).people)
    before = path.read_bytes()
    assert 0 == add_people(path, crowd, "sms")
    assert before == path.read_bytes()


def test_names_that_look_alike_do_not_stop_an_import(tmp_path: Path) -> None:
    """Two identifiers that only differ in what nobody sees are one entry."""
    path = tmp_path / "contacts.yaml"

    assert 1 == add_people(path, people(("x:Ana", "Ana"), ("x:Ana\u200e", "Ana")), "jsonl")
    assert "x:Ana" == load_contacts(path).key_of([visible("x:Ana\u200e")])


@pytest.mark.parametrize("region", [None, "US"])
def test_a_national_number_of_the_user_is_that_of_the_import(tmp_path: Path, region: str | None) -> None:
    """The country of most numbers, new ones included, says what it means."""
    path = written(tmp_path, "402 555 0101: {relation: family}\n")
    new = people(("+14025550101", "Ilona"), ("+14025550102", "Dani"), ("4025550103", "Noor", 2), ("+14025550103", "N"))

    assert 2 == add_people(path, new, "sms", region)
    assert ["402 555 0101", "4025550103", "+14025550102"] == list(load_contacts(path).people)
    assert "402 555 0101" == load_contacts(path).key_of(["+14025550101"])
