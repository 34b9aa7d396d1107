"""Who wrote in an export: identifiers with the names the source shows for them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Person:
    """One identifier. ``names`` counts each name it appeared under."""

    messages: int = 0
    direct: bool = False
    names: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str | None:
        return self.names.most_common(1)[0][0] if self.names else None


class People:
    """Everybody but me, by canonical identifier."""

    def __init__(self) -> None:
        self._people: dict[str, Person] = {}

    def __len__(self) -> int:
        return len(self._people)

    def __iter__(self) -> Iterator[tuple[str, Person]]:
        return iter(self._people.items())

    def met(self, identifier: str, name: str | None, thread_kind: str, count: int = 1) -> None:
        """Take note of *count* messages by *identifier*."""
        person = self._people.get(identifier)
        if person is None:
            person = self._people[identifier] = Person()
        person.messages += count
        person.direct = person.direct or thread_kind == "dm"
        if name:
            person.names[name] += count

    def most_active(self, count: int) -> list[str]:
        """Name, or else identifier, of those who wrote most."""
        ranked = sorted(self._people.items(), key=lambda item: -item[1].messages)
        return [person.name or identifier for identifier, person in ranked[:count]]
