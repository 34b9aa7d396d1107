"""What the user tells an importer."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import QUICK
from training.sources.options import Options, ask_who_is_me


@pytest.mark.parametrize(
    ("me", "name"),
    [
        ("Jo Varga", "Jo Varga"),
        ("Jo Varga", "jo varga"),
        ("JO VARGA", "\u200eJo  Varga "),
        ("Jo\xa0Varga", "\u202aJo Varga\u202c"),
        ("Zoë", "Zoe\u0308"),
        ("Straße", "STRASSE"),
        ("+14025550100", "+1 (402) 555-0100"),
        ("402 555 0100", "+14025550100"),
        ("+1 402 555 0100", "14025550100"),
        ("+14025550100", "tel:+14025550100"),
        ("Jo@Example.com", "mailto:jo@example.com"),
        ("U012ABC", "u012abc"),
        ("123456789012345678", "123456789012345678"),
        ("whatsapp:Jo Varga", "Jo Varga"),
        ("telegram:user99", "telegram:user99"),
        ("telegram:user99", "user99"),
    ],
    ids=ascii,
)
def test_spellings_of_me(me: str, name: str) -> None:
    """Names, addresses and ids are compared, not the letters they are written with."""
    assert Options(me=(me,), region="US").is_me(name)


@pytest.mark.parametrize(
    ("me", "name"),
    [
        ("Jo", "Joanna"),
        ("Jo Varga", "Jo"),
        ("+14025550100", "+14025550101"),
        ("+14025550100", "+445550100"),
        ("jo@example.com", "jo@example.org"),
        ("Jo Varga", "whatsapp:Jo Varga"),
        ("", ""),
        ("", "\u200e"),
        (" ", "\t"),
        ("whatsapp:", " "),
    ],
    ids=ascii,
)
def test_who_is_not_me(me: str, name: str) -> None:
    """What is another name is another person, and nobody is nobody."""
    assert not Options(me=(me,), region="US").is_me(name)


def test_any_of_my_names_will_do() -> None:
    """Of those given and of those that the export has; None is no name."""
    options = Options(me=("Jo Varga", "+14025550100"))

    assert options.is_me(None, "Ana", "+1 402 555 0100")
    assert not options.is_me(None, "Ana", "")
    assert not options.is_me()


def test_nobody_is_me_without_me() -> None:
    """Whatever the name."""
    assert not Options().is_me("Me", "", None)


@QUICK
@given(st.lists(st.text(st.characters()), max_size=3), st.text(st.characters()))
def test_any_text_can_be_asked_about(me: list[str], name: str) -> None:
    """Nothing raises, and a name that shows is found by itself."""
    Options(me=tuple(me)).is_me(name)

    assert Options(me=("Jo", f"a{name}")).is_me(f"a{name}")


@pytest.mark.parametrize(
    ("zone", "hour"),
    [
        (UTC, 9),
        (ZoneInfo("Europe/Vienna"), 8),
        (ZoneInfo("America/Chicago"), 15),
        (timezone(timedelta(hours=5, minutes=30)), 3),
    ],
    ids=str,
)
def test_a_local_time_in_utc(zone: tzinfo, hour: int) -> None:
    """By the time zone of the phone."""
    when = Options(zone=zone).aware(datetime(2024, 1, 31, 9, 0))

    assert (hour, UTC) == (when.hour, when.tzinfo)


def test_without_a_zone_it_is_that_of_this_computer() -> None:
    """As Python knows it."""
    local = datetime(2024, 7, 1, 9, 0)

    assert local.astimezone() == Options().aware(local)


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        (datetime(2024, 3, 31, 2, 30), datetime(2024, 3, 31, 1, 30, tzinfo=UTC)),
        (datetime(2024, 10, 27, 2, 30), datetime(2024, 10, 27, 0, 30, tzinfo=UTC)),
    ],
    ids=["skipped", "twice"],
)
def test_the_hours_of_changing_clocks_are_taken(local: datetime, utc: datetime) -> None:
    """The one that never was, and the first of those that were twice."""
    assert utc == Options(zone=ZoneInfo("Europe/Vienna")).aware(local)


def test_the_question_who_i_am_lists_the_candidates() -> None:
    """Each once, in order, at most twenty, without what cannot be shown."""
    asked = ask_who_is_me(["Ana", "Ben\x1b[31m", "Ana", "\u200e", *map(str, range(30))])

    assert ("who_is_me", 20) == (asked.code, len(asked.details))
    assert ["Ana", "Ben[31m", "0"] == asked.details[:3]


def test_the_question_who_i_am_without_candidates() -> None:
    """It says that there are none."""
    assert ["(the export names nobody)"] == ask_who_is_me([]).details


def test_a_candidate_is_what_me_takes() -> None:
    """As it was shown it is found."""
    name = "\u202aJo \t Varga\ud83d"
    (shown,) = ask_who_is_me([name]).details

    assert Options(me=(shown,)).is_me(name)
