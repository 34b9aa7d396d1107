"""Private data is found and masked: recall and precision by kind, and no text takes long."""

import csv
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import THOROUGH
from tests.private_examples import MAKERS, PLACES, labelled, ordinary
from training.privacy.find import KINDS, Found, find_private, mask, without_overlaps

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "fixtures" / "wechat_csv"
ALWAYS = ("email", "card", "iban", "url", "ip (4)", "ip (6)")


def masked(text: str, region: str | None = "US") -> str:
    return mask(text, find_private(text, region))


def plain_kind(label: str) -> str:
    return label.partition(" (")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail jo.b@mail.co.uk, ok", "mail name@example.com, ok"),
        ("see HTTPS://Foo.com/a?b=c).", "see https://example.com/)."),
        ("www.foo.com/x and foo.org", "https://example.com/ and https://example.com/"),
        ("call (402) 555-9876 now", "call (202) 555-0100 now"),
        ("402.555.9876", "202.555.0100"),
        ("+44 20 7946 0958", "+1 202 555 0100"),
        ("１３８１２３４５６７８", "12025550100"),
        ("5555 5555 5555 4444", "4242 4242 4242 4242"),
        ("IBAN DE89 3704 0044 0532 0130 00 thanks", "IBAN GB82 WEST 1234 5698 7654 32 thanks"),
        ("078-05-1120", "000-00-0000"),
        ("at 192.168.1.100:8080", "at 192.0.2.1:8080"),
        ("2001:0db8:85a3::8a2e:0370:7334", "2001:db8::1"),
        ("12 main st, ok", "12 Example Street, ok"),
        ("1600 Pennsylvania Avenue NW", "12 Example Street"),
        ("12 rue de la Paix", "12 Example Street"),
        ("北京市朝阳区三里屯", "12 Example Street"),
        ("40.71280, -74.00601", "0.0000, 0.0000"),
        ("password is hunter2.", "password is example."),
        ("your code is 482913", "your code is 123456"),
        ("904-118 is your verification code", "123-456 is your verification code"),
        ("my pin is either 7402 or 1596", "my pin is either 1234 or 1234"),
        ("sort code 20-30-40", "sort code 12-34-56"),
        ("born 3/4/1990", "born 1/1/2000"),
        ("AB904118C", "XX123456X"),
        ("passport no. L9041187", "passport no. X1234567"),
        ("904118204118204118204", "123456789012345678901"),
    ],
)
def test_each_kind_has_a_stand_in_of_its_shape(text: str, expected: str) -> None:
    """Reserved for examples, so that no one is named by it and no mask word is learned."""
    assert masked(text) == expected


@pytest.mark.parametrize("text", ordinary())
def test_ordinary_texts_stay(text: str) -> None:
    """Scores, dates, times, prices, years, rooms, versions, emoji."""
    for region in ("US", "GB", "DE", None):
        assert find_private(text, region) == []


def test_recall_and_precision_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """Over a seeded set: every kind in some twenty places, and ordinary texts in which nothing may be found."""
    total: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    named: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for kind, text, secret in labelled():
        found = find_private(text, "US")
        total[kind] += 1
        hits[kind] += secret not in mask(text, found)
        for one in found:
            named[one.kind] += 1
            right[one.kind] += one.kind == plain_kind(kind)
    for text in ordinary():
        named.update(one.kind for one in find_private(text, "US"))
    recall = {kind: hits[kind] / total[kind] for kind in total}
    precision = {kind: right[kind] / named[kind] for kind in named}
    with capsys.disabled():
        rows = [
            f"  {kind:22} recall {recall[kind]:.3f} of {total[kind]}  precision {precision[plain_kind(kind)]:.3f}"
            for kind in total
        ]
        print("\n" + "\n".join(rows))  # noqa: T201

    assert len(total) >= 20 and min(total.values()) >= 20
    assert {kind: share for kind, share in recall.items() if share < (1 if kind in ALWAYS else 0.95)} == {}
    assert {kind: share for kind, share in precision.items() if share < 0.95} == {}


def test_every_kind_has_examples() -> None:
    """But for blocked words, which are the user's."""
    assert {plain_kind(kind) for kind in MAKERS} == set(KINDS) - {"blocked"}


@st.composite
def mixed_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """(text, secrets): some private examples, some ordinary words, in a row."""
    pick = random.Random(draw(st.integers(0, 10_000)))
    pieces, secrets = [], []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            example, secret = MAKERS[pick.choice(list(MAKERS))](pick)
            pieces.append(pick.choice(PLACES).format(example))
            secrets.append(secret)
        else:
            pieces.append(draw(st.sampled_from(ordinary()) | st.text(max_size=20)))
    return pick.choice(["\n", " and ", ", ", " 👍🏽 ", " — "]).join(pieces), secrets


@THOROUGH
@given(mixed_texts(), st.sampled_from(["US", "GB", "CN", None]))
def test_masking_twice_is_masking_once(made: tuple[str, list[str]], region: str | None) -> None:
    """Stand-ins are never found again."""
    once = masked(made[0], region)

    assert find_private(once, region) == []
    assert masked(once, region) == once


@THOROUGH
@given(mixed_texts())
def test_no_secret_is_left(made: tuple[str, list[str]]) -> None:
    """Wherever it stands, and whatever stands around it."""
    text, secrets = made

    assert [secret for secret in secrets if secret in masked(text)] == []


@THOROUGH
@given(st.text() | st.text("0123456789 .-/:@+()aAé\n", max_size=80), st.sampled_from(["US", "DE", None]))
def test_any_text_is_searched(text: str, region: str | None) -> None:
    """What is found lies in the text, in order, apart, and is masked for good."""
    found = find_private(text, region)

    assert all(one.start < one.end <= len(text) and one.kind in KINDS for one in found)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    assert find_private(mask(text, found), region) == []


def test_what_is_named_first_stays_where_two_overlap() -> None:
    """In the order of the text."""
    found = [Found("url", 10, 20), Found("email", 15, 25), Found("phone", 0, 10), Found("card", 0, 30)]

    assert without_overlaps(found) == [Found("phone", 0, 10), Found("url", 10, 20)]


@pytest.mark.parametrize(
    "piece",
    ["1", "1 ", "12-", "1.", ".", "@", "a@", "a.", "a@a.", "://", "http://", "www.", "-", ":", "a:", "1:", "DE89 ",
     "(1", "+1 ", "code ", "code 1234 ", "password ", "pass is ", "A1", "aA1", "0x", "ab12", "12 Main ",
     "12 a st ", "born ", "account ", "eyJ", "北", "市", "1234567890 ", "402-555-1234 ", "4111 1111 1111 1111 ", "é1",
     "1,", "1/", "12 Old "],
)  # fmt: skip
def test_every_text_is_searched_to_its_end(piece: str) -> None:
    """A pattern that backtracks would not end within anybody's patience: nothing is found beyond the text."""
    text = (piece * 20_000)[:20_000]

    assert all(0 <= one.start < one.end <= len(text) for one in find_private(text, "US"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared fixtures are not there")
def test_recall_on_a_public_chinese_set(capsys: pytest.CaptureFixture[str]) -> None:
    """By kind; ages and districts are no business of rules as sure as these."""
    path = SHARED / "WeClone" / "test_PII" / "test_0_730.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["talker"], row["msg"]) for row in csv.DictReader(file) if row["talker"] and row["msg"] != "FALSE"]
    total = Counter(kind for kind, _ in rows)
    hits = Counter(kind for kind, text in rows if find_private(text, "CN"))
    with capsys.disabled():
        print("\n" + "\n".join(f"  {kind:15} {hits[kind]} of {total[kind]}" for kind in total))  # noqa: T201

    for kind in ("PHONE_NUMBER", "EMAIL_ADDRESS", "IP_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "CRYPTO", "ID", "US_SSN"):
        assert hits[kind] == total[kind]
    assert hits["LOCATION"] >= 2
    assert hits["AGE"] == hits["666"] == 0
