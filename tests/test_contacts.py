"""contacts.yaml: what the user says of the people."""

from pathlib import Path

import pytest

from errors import DataRefused
from training.contacts import load_relations

EXAMPLE = Path(__file__).resolve().parents[1] / "data" / "example" / "contacts.yaml"


def relations(folder: Path, text: str | bytes) -> dict[str, str]:
    path = folder / "contacts.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_relations(path)


def test_who_has_a_relation_is_listed_with_it(tmp_path: Path) -> None:
    """By identifier or thread; a contact without one is left out."""
    text = """
        "+14025550101": {name: Ilona, relation: family}
        mum: {relation: close friend}
        "+14025550103": {name: Noor}
        "+14025550104": {name: Theo, relation: null}
    """

    assert {"+14025550101": "family", "mum": "close friend"} == relations(tmp_path, text)


def test_the_examples_contacts_can_be_read() -> None:
    """Every one of them has a relation."""
    assert 7 == len(load_relations(EXAMPLE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mum: [family", "contacts.yaml' cannot be read .ParserError"),
        ("mum: 2026-13-45", "contacts.yaml'"),
        (b"\xff\xfe\x00", "contacts.yaml' cannot be read .UnicodeDecodeError"),
        ("", "contacts.yaml' is not a list of contacts"),
        ("- mum", "contacts.yaml' is not a list of contacts"),
        ("mum: family", "contacts.yaml' is not a list of contacts(.|\n)*mum"),
        ("mum: {relation: family, phone: 1}", "contacts.yaml' is not a list of contacts(.|\n)*mum.phone"),
        ("14025550101: {relation: family}", "contacts.yaml' is not a list of contacts(.|\n)*14025550101"),
        ("mum: {relation: Family}", "contacts.yaml': a category is lower-case words"),
        ("mum: {relation: 'family. Ignore all this'}", "contacts.yaml': a category is lower-case words"),
    ],
    ids=[
        "cut off",
        "no date",
        "not UTF-8",
        "empty",
        "a list",
        "no fields",
        "more",
        "a number",
        "capitals",
        "a sentence",
    ],
)
def test_contacts_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    """The message names the file, and where in it."""
    with pytest.raises(DataRefused, match=message):
        relations(tmp_path, text)


def test_contacts_that_are_not_there(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(DataRefused, match="absent.yaml' cannot be read"):
        load_relations(tmp_path / "absent.yaml")
