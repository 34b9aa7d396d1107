"""One spelling for each way to name a person."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import THOROUGH
from training.identifiers import canonical_address, canonical_handle, canonical_name, region_of, visible

REGIONS = st.sampled_from([None, "US", "GB", "AT", "MX", "AR", "IT", "XX"])
PIECES = [
    *"0123456789++ ()-./@x#,;", "tel:", "mailto:", "short:", "00", "011", "+1", "+44", "+521", "+549", "e\u0301", "é",
    "\u202a", "\u200d", "İ", "ß", "\ud83d", "٠", "१", "０", "²", "\u2011", "\xa0", "ext", "@rcs.",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=16).map("".join)


@pytest.mark.parametrize(
    ("raw", "region", "address"),
    [
        ("(555) 123-4567", "US", "+15551234567"),
        ("12345", "US", "short:12345"),
        ("262966", "US", "short:262966"),
        ("1-800-FLOWERS", "US", None),
        ("AMAZON", "US", None),
        ("urn:biz:0f3a-11", "US", None),
        ("group_8@rcs", "US", None),
        ("group_8@rcs.example.com", "US", None),
        ("Jo@Example.COM", "US", "jo@example.com"),
        ("0044 7911 123456", "GB", "+447911123456"),
        ("0044 7911 123456", "US", "+447911123456"),
        ("\u202a+43\xa012345\xa0566789\u202c", "AT", "+4312345566789"),
        ("+5215512345678", None, "+525512345678"),
        ("+525512345678", None, "+525512345678"),
        ("+5491123456789", None, "+541123456789"),
        ("+541123456789", None, "+541123456789"),
        ("16105550101", "US", "+16105550101"),
        ("16105550101", None, "+16105550101"),
    ],
    ids=ascii,
)
def test_the_rows_of_the_reference(raw: str, region: str | None, address: str | None) -> None:
    """Section 15 of the reference on message sources, with its rules applied."""
    assert address == canonical_address(raw, region)


@pytest.mark.parametrize(
    ("raw", "region"),
    [
        ("+14025550101", None),
        ("+1 402 555 0101", None),
        ("+1 (402) 555-0101", None),
        ("+1.402.555.0101", None),
        ("+1\u2011402\u2011555\u20110101", None),
        ("\uff0b1 402 555 0101", None),
        ("+\uff11\uff14\uff10\uff12\uff15\uff15\uff15\uff10\uff11\uff10\uff11", None),
        ("+\u0661\u0664\u0660\u0662\u0665\u0665\u0665\u0660\u0661\u0660\u0661", None),
        ("(+1) 402 555 0101", None),
        ("0014025550101", None),
        ("00 1 402 555 0101", "GB"),
        ("1 (402) 555-0101", None),
        ("402 555 0101", "US"),
        ("1 402 555 0101", "US"),
        ("011 1 402 555 0101", "US"),
        ("tel:+14025550101", None),
        ("TEL: +1-402-555-0101", None),
        ("  +1402 555 0101\u200e ", None),
    ],
    ids=ascii,
)
def test_a_number_has_one_spelling(raw: str, region: str | None) -> None:
    """However it is written."""
    assert "+14025550101" == canonical_address(raw, region)


@pytest.mark.parametrize(
    "raw",
    [
        "(462) 320-8117",
        "980 660 7737",
        "8685883439",
        "07911 123456",
        "11 98765-4321",
        "12/05/2024",
        "2024-02-28",
        "+1 402 555 0101 / +1 402 555 0102",
        "+14025550101 ext 5",
        "1" * 30,
        "1+4025550101",
    ],
)
def test_a_number_without_its_country_is_not_guessed_at(raw: str) -> None:
    """Half of all national numbers would be possible ones of some other country."""
    assert canonical_address(raw) is None


@pytest.mark.parametrize(
    ("raw", "region", "address"),
    [
        ("555-0101", "US", "+15550101"),
        ("07911 123456", "GB", "+447911123456"),
        ("+44 (0)7911 123456", None, "+447911123456"),
        ("06 698 12345", "IT", "+390669812345"),
        ("044 668 18 00", "CH", "+41446681800"),
        ("402 555 0101", "XX", None),
        ("+447911123456", "XX", "+447911123456"),
    ],
)
def test_national_numbers_by_region(raw: str, region: str | None, address: str | None) -> None:
    """A region says what a number without its country means, and nothing about one that has it."""
    assert address == canonical_address(raw, region)


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("7", "short:7"),
        ("+12345", "short:12345"),
        ("262-966", "short:262966"),
        ("\u0661\u0662\u0663", "short:123"),
        ("short:262966", "short:262966"),
        ("short:AMAZON", "short:AMAZON"),
        ("short:", None),
    ],
    ids=ascii,
)
def test_short_codes(raw: str, address: str | None) -> None:
    """Six digits or fewer are a business's, and are never made a number."""
    assert address == canonical_address(raw, "US")


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("JO@EXAMPLE.COM", "jo@example.com"),
        ("mailto:Jo@example.com", "jo@example.com"),
        ("MAILTO: jo@example.com", "jo@example.com"),
        ("jo+list@example.co.uk", "jo+list@example.co.uk"),
        ("jo@münchen.example", "jo@münchen.example"),
        ("jo@rcs-club.example", "jo@rcs-club.example"),
        ("jo\u200b@example.com", "jo@example.com"),
        ("14025550101@s.whatsapp.net", None),
        ("14025550101-1600000000@g.us", None),
        ("Jo <jo@example.com>", None),
        ("a@b@c", None),
        ("@jo", None),
        ("jo@", None),
        ("telegram:@Jo", None),
        ("jo@example.com,ana@example.com", None),
    ],
    ids=ascii,
)
def test_mail_addresses(raw: str, address: str | None) -> None:
    """In lower case; an account of some app with an @ in it is none."""
    assert address == canonical_address(raw)


@pytest.mark.parametrize(
    "raw", ["", " ", "\u200e", "+", "()", "---", "Jo", "Jo 2", "\ud83d", "👩‍👩‍👧", "\x00", "²²²²²²²²²²"], ids=ascii
)
def test_what_is_no_address(raw: str) -> None:
    """Names, signs and nothing at all."""
    assert canonical_address(raw, "US") is None


@THOROUGH
@given(TEXTS, REGIONS, REGIONS)
def test_an_address_stays_itself(raw: str, region: str | None, other: str | None) -> None:
    """Whatever it was made of, and whatever the region is the next time; nothing raises."""
    address = canonical_address(raw, region)

    assert address is None or address == canonical_address(address, other)


@THOROUGH
@given(TEXTS, REGIONS)
def test_whoever_writes_has_an_identifier(raw: str, region: str | None) -> None:
    """The address where there is one; else a business, or a name of the source."""
    address = canonical_address(raw, region)

    assert (address or f"short:{visible(raw)}") == canonical_handle(raw, region)
    assert (address or f"whatsapp:{visible(raw)}") == canonical_name("whatsapp", raw, region)
    assert region_of(raw) is None or raw.startswith("+")


@THOROUGH
@given(TEXTS, REGIONS)
def test_a_name_of_a_source_is_never_an_address(raw: str, region: str | None) -> None:
    """Though it holds one: sources would share people that they do not."""
    for source in ("whatsapp", "sms", "telegram", "csv"):
        assert canonical_address(f"{source}:{visible(raw)}", region) is None


@THOROUGH
@given(TEXTS)
def test_what_is_visible_stays_so(raw: str) -> None:
    """Once is enough, and what is left can be written to any file, on one line."""
    shown = visible(raw)

    assert shown == visible(shown)
    assert 1 >= len(shown.encode().splitlines())


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("  Ilona \t Varga\n", "Ilona Varga"),
        ("\u202aIlona\u202c", "Ilona"),
        ("Zoe\u0308", "Zoë"),
        ("e\u200d\u0301", "é"),
        ("Jo \ud83d", "Jo"),
        ("a\x1b[31mb", "a[31mb"),
        ("Ana 🌻", "Ana 🌻"),
    ],
    ids=ascii,
)
def test_what_of_a_name_is_visible(raw: str, shown: str) -> None:
    """Composed, on one line, without what only a machine sees."""
    assert shown == visible(raw)


@pytest.mark.parametrize(
    ("address", "region"),
    [
        ("+14025550101", "US"),
        ("+442079460958", "GB"),
        ("+525512345678", "MX"),
        ("+999123456789", None),
        ("+", None),
        ("jo@example.com", None),
        ("short:262966", None),
        ("", None),
    ],
)
def test_the_country_of_an_address(address: str, region: str | None) -> None:
    """Numbers have one."""
    assert region == region_of(address)
