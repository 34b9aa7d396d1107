"""``contacts.yaml``: who is who, for the user to edit.

    "+14025550101": {name: Ilona, relation: family, also: [ilona@example.com, "whatsapp:Ilona Varga"]}

The key is an identifier as message files have it (or a thread's), ``also`` lists further ones of the same person, and
``relation`` is what the variant ``category_aware`` tells the model. ``training import`` appends whoever is new; what
the user wrote is never touched. An address may be spelled in any way.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from errors import DataRefused
from prompt_format.persona import check_category
from training.identifiers import canonical_address, region_of, visible
from training.people import People, Person
from training.private_files import replace_file

MAX_PEOPLE = 500  # a file of so many is not filled further: nobody would read it
HEADER = """\
# Who is who. Edit freely: relation is a few lower-case words (family, close friend, work) for the variant
# category_aware; `also` lists further identifiers of the same person. New people are added below, yours stays.
"""


class Contact(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str | None = None
    relation: str | None = None
    also: list[str] = []


@dataclass(frozen=True)
class Contacts:
    """The people of one file, by their key in it."""

    people: Mapping[str, Contact] = field(default_factory=dict)
    region: str | None = None
    _keys: Mapping[str, str] = field(default_factory=dict)

    def key_of(self, identifiers: Sequence[str]) -> str | None:
        """The key of the first of *identifiers* that belongs to somebody in the file."""
        spelled = (_spelling(one, self.region) for one in identifiers)
        return next((self._keys[one] for one in spelled if one in self._keys), None)

    def relation(self, key: str) -> str | None:
        """What the user says that the contact *key* is to them."""
        return self.people[key].relation if key in self.people else None

    @property
    def has_relations(self) -> bool:
        return any(contact.relation for contact in self.people.values())


def load_contacts(path: Path, region: str | None = None) -> Contacts:
    """The contacts of the file at *path*.

    Args:
        region: Country of numbers written without a country code; None is that of most numbers in the file.

    Raises:
        DataRefused: If it cannot be read, a relation cannot stand in a prompt, or two contacts claim one identifier.
    """
    return _loaded(path, region, [])


def _loaded(path: Path, region: str | None, others: Iterable[str]) -> Contacts:
    try:
        written = _parsed(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise DataRefused(f"'{path}' cannot be read ({type(error).__name__})", code="unreadable_file") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise DataRefused(f"'{path}' is not YAML", code="contacts_malformed", details=[_why(error)]) from None
    people, faults = _checked(written)
    region = region or _usual_region([*others, *_identifiers(people)])
    keys, more = _index(people, region)
    faults = list(dict.fromkeys([*faults, *more]))
    if faults:
        raise DataRefused(f"'{path}' is not a list of contacts", code="contacts_malformed", details=faults)
    return Contacts(people, region, keys)


def add_people(path: Path, people: People, source: str, region: str | None = None) -> int:
    """Append those of *people* with a direct conversation who are not in the file yet; returns how many.

    Businesses (``short:...``) are left out, as nothing is learnt from them.

    Raises:
        DataRefused: As ``load_contacts``, or if nothing can be appended to it; the file stays as it is.
    """
    is_there = path.exists()
    keys = [key for key, _ in people]
    known = _loaded(path, region, keys) if is_there else Contacts(region=region or _usual_region(keys))
    new = _unknown(known, people)
    added = new[: max(MAX_PEOPLE - len(known.people), 0)]
    if not added:
        return 0
    entries = _entries(known, added, source)
    if len(new) > len(added):
        entries.append(f"# {len(new) - len(added)} more, who wrote less, are left out")
    text = _appended(path, path.read_bytes() if is_there else HEADER.encode(), entries, len(added))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(path.resolve(), text)
    return len(added)


# -- reading


class _Loader(yaml.BaseLoader):
    """Every scalar is the text that stands there (+14025550101, No, 007), whatever its tag; null is None."""


_NULL = "tag:yaml.org,2002:null"
_Loader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_constructor(_NULL, lambda loader, node: None)


@dataclass(frozen=True)
class _Written:
    """A file as it stands there: (key, value) of each entry, and where entries begin; None where none can follow."""

    entries: list[tuple[Any, Any]]
    column: int | None = 0


def _parsed(data: bytes) -> _Written:
    loader = _Loader(data.decode("utf-8-sig"))
    node = loader.get_single_node()
    if node is None or node.tag == _NULL:
        return _Written([])
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError("it must be one entry a person: `identifier: {name: ..., relation: ...}`")
    loader.construct_document(node)  # refuses what contains itself
    entries = [tuple(loader.construct_object(part, deep=True) for part in pair) for pair in node.value]
    return _Written(entries, None if node.flow_style else node.start_mark.column)


def _why(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
        return f"line {mark.line + 1}: {error.problem}"
    return "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())


def _checked(written: _Written) -> tuple[dict[str, Contact], list[str]]:
    """(key -> contact, everything that is wrong with single entries)."""
    people: dict[str, Contact] = {}
    faults = []
    for key, value in written.entries:
        if not isinstance(key, str) or key in people:
            faults.append(f"{key} stands there twice" if isinstance(key, str) else "an entry has no identifier")
            continue
        try:
            people[key] = Contact.model_validate({} if value is None else value)
        except ValidationError as error:
            faults += [f"{'.'.join([key, *map(str, row['loc'])])}: {row['msg']}" for row in error.errors()]
    return people, faults


def _identifiers(people: Mapping[str, Contact]) -> Iterator[str]:
    return (one for key, contact in people.items() for one in [key, *contact.also])


def _usual_region(identifiers: Iterable[str]) -> str | None:
    regions = Counter(filter(None, (region_of(canonical_address(one) or "") for one in identifiers)))
    return min(regions, key=lambda region: (-regions[region], region), default=None)


def _index(people: Mapping[str, Contact], region: str | None) -> tuple[dict[str, str], list[str]]:
    """(identifier -> key, everything that is wrong between entries)."""
    keys: dict[str, str] = {}
    faults = []
    for key, contact in people.items():
        if contact.relation:
            try:
                check_category(contact.relation)
            except ValueError as error:
                faults.append(f"{key}: {error}")
        for identifier in [key, *contact.also]:
            other = keys.setdefault(_spelling(identifier, region), key)
            if other != key:
                faults.append(f"{identifier} stands for two people: {other} and {key}")
    return keys, faults


def _spelling(identifier: str, region: str | None) -> str:
    return canonical_address(identifier, region) or visible(identifier)


# -- appending


def _unknown(known: Contacts, people: People) -> list[tuple[str, Person]]:
    """Those to be added, each once however they are spelled; who wrote most comes first."""
    found: dict[str, tuple[str, Person]] = {}
    for key, person in sorted(people, key=lambda item: -item[1].messages):
        key = _whole(key)
        if person.direct and not key.startswith("short:") and known.key_of([key]) is None:
            found.setdefault(_spelling(key, known.region), (key, person))
    return list(found.values())


def _entries(known: Contacts, new: Sequence[tuple[str, Person]], source: str) -> list[str]:
    """The lines to append: for each person an entry, and a comment where somebody else looks like the same person."""
    alike = {mark: key for key, one in known.people.items() for mark in _marks([key, *one.also], one.name)}
    found = []
    for key, person in new:
        name = "null" if person.name is None else _quoted(person.name)
        # `?` begins a key of any length; without it YAML takes 1024 characters.
        found += [f"? {_quoted(key)}", ""] if len(_quoted(key)) > 1000 else [_quoted(key)]
        found[-1] += f": {{name: {name}, relation: null}}  # {source}, {person.messages} messages"
        marks = _marks([key], person.name)
        same = next((alike[mark] for mark in marks if mark in alike), None)
        if same is not None:
            found.append(f"# perhaps the same person as {_quoted(same)}: if so, move it to their `also`")
        alike = {**dict.fromkeys(marks, key), **alike}
    return found


def _marks(identifiers: Sequence[str], name: str | None) -> list[str]:
    """What shows that two contacts may be one: a name, or the last ten digits of a number."""
    digits = ("".join(c for c in one if c.isdecimal()) for one in identifiers)
    names = [f"name {visible(name).casefold()}"] if name and visible(name) else []
    return [*names, *(f"number {one[-10:]}" for one in digits if len(one) >= 10)]


def _quoted(text: str) -> str:
    """*text* as one line of YAML, its emoji to be read."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(_whole(text), ensure_ascii=False))


def _whole(text: str) -> str:
    """*text* with a question mark for half a surrogate pair, as in message files."""
    return text.encode(errors="replace").decode()


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _appended(path: Path, before: bytes, entries: Sequence[str], count: int) -> bytes:
    """*before* with *entries* of *count* people below.

    Raises:
        DataRefused: If they cannot follow: where braces or dots stand around what is there.
    """
    old = _parsed(before)
    end = b"\r\n" if b"\r\n" in before else b"\n"
    text = before if before.endswith(b"\n") or not before else before + end
    text += b"".join(b" " * (old.column or 0) + entry.encode() + end for entry in entries)
    try:
        new = _parsed(text) if old.column is not None else old
    except yaml.YAMLError:
        new = old
    if new.entries[: -count or None] != old.entries or len(new.entries) != len(old.entries) + count:
        raise DataRefused(
            f"new people cannot be added to '{path}': write one person a line, without braces or dots around them all",
            code="contacts_malformed",
            details=list(entries),
        )
    return text
