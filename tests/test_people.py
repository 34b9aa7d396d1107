"""Who wrote in an export."""

from training.people import People


def people(*met: tuple[str, str | None, str]) -> People:
    found = People()
    for identifier, name, kind in met:
        found.met(identifier, name, kind)
    return found


def test_a_person_is_called_what_they_are_called_most_often() -> None:
    """Of names seen equally often, the one seen first."""
    by_identifier = dict(
        people(
            ("+14025550101", "Ilo", "dm"),
            ("+14025550101", "Ilona", "dm"),
            ("+14025550101", "Ilona", "dm"),
            ("jo@example.com", "Jo", "dm"),
            ("jo@example.com", "Joanna", "dm"),
        )
    )

    assert ["Ilona", "Jo"] == [person.name for person in by_identifier.values()]


def test_somebody_without_a_name_has_none() -> None:
    """An empty name is none either."""
    ((_, person),) = people(("+14025550101", None, "dm"), ("+14025550101", "", "dm"))

    assert (None, 2) == (person.name, person.messages)


def test_one_message_to_me_alone_makes_a_person_direct() -> None:
    """Those met in groups only are not."""
    found = dict(people(("ana", None, "group"), ("ben", None, "group"), ("ben", None, "dm"), ("ben", None, "group")))

    assert {"ana": False, "ben": True} == {key: person.direct for key, person in found.items()}


def test_several_messages_can_be_met_at_once() -> None:
    """They count like as many single ones."""
    together, singly = People(), people(("ana", "Ana", "dm"), ("ana", "Ana", "dm"), ("ana", None, "dm"))
    together.met("ana", "Ana", "dm", 2)
    together.met("ana", None, "dm")

    assert dict(singly) == dict(together)


def test_who_wrote_most_comes_first() -> None:
    """By name, or else by identifier, and no more than asked for."""
    found = people(("ana", "Ana", "dm"), ("ben", None, "dm"), ("ben", None, "dm"), ("cleo", "Cleo", "dm"))

    assert (3, ["ben", "Ana"]) == (len(found), found.most_active(2))
