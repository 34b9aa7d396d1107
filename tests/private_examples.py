"""Invented private data of every kind, ordinary texts, and the places of a text where either can stand."""

import random
from collections.abc import Callable, Iterator
from string import ascii_lowercase, ascii_uppercase, digits

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
STREETS = ["Maple Street", "Old Mill Road", "N. Willow Ave", "elm st", "Harbour Lane", "Kingsley Blvd", "5th Avenue"]
GERMAN_STREETS = ["Lindenstraße", "Bergweg", "Marktplatz"]
PASSWORD_WORDS = ["password is", "wifi password:", "pw:", "Passwort ist"]
CODE_WORDS = ["code is", "verification code:", "OTP", "your pin is"]
ACCOUNT_WORDS = ["account number", "acct no.", "routing number is"]
# What can be put around a secret. {} is the secret, which a space, a sign or another script sets off.
PLACES = [
    "{}", "{} is it", "it is {}", "so {} ok?", "👍🏽 {}", "👍🏽{}", "({})", "[{}]", "“{}”", '"{}"', "'{}'",
    "{}.", "{}!", "{}, thanks", "{}; ok", "one\n{}\ntwo", "one\n{}", "我的是{}吗", "здесь {} там", "- {}", "*{}*",
    "{}…", "ok: {}",
]  # fmt: skip


def luhn(number: str) -> str:
    """*number* with the digit that makes it a card's."""
    total = sum(sum(divmod(int(d) * (2 - n % 2), 10)) for n, d in enumerate(reversed(number)))
    return number + str(-total % 10)


def _digits(pick: random.Random, count: int) -> str:
    return pick.choice("23456789") + "".join(pick.choices("0246813579", k=count - 1))


def _email(pick: random.Random) -> str:
    name = "".join(pick.choices(ascii_lowercase, k=6))
    return pick.choice(["{0}@{1}.com", "{0}.b+x@mail.{1}.co.uk", "{0}_1@{1}.museum", "{0}@{1}.io"]).format(
        name, name[:4]
    )


def _url(pick: random.Random) -> str:
    name = "".join(pick.choices(ascii_lowercase, k=7))
    forms = [
        "https://{0}.com/a?b=c#d",
        "http://{0}.org",
        "www.{0}.net/x",
        "{0}.com/p/1",
        "{0}.io",
        "zoomus://{0}/j",
        "{0}.ly/aB3",
    ]
    return pick.choice(forms).format(name)


def _phone(pick: random.Random) -> str:
    area, last = _digits(pick, 3), _digits(pick, 4)
    forms = [
        "({0}) 456-{1}",
        "{0}-456-{1}",
        "{0}.456.{1}",
        "+1 {0} 456 {1}",
        "+1{0}456{1}",
        "+44 20 7946 {1}",
        "{0} 456 {1}",
        "+43 664 456{1}",
    ]
    return pick.choice(forms).format(area, last)


def _card(pick: random.Random) -> str:
    number = luhn(pick.choice("456") + _digits(pick, 14))
    return pick.choice(
        [
            number,
            " ".join(number[n : n + 4] for n in range(0, 16, 4)),
            "-".join(number[n : n + 4] for n in range(0, 16, 4)),
        ]
    )


def _iban(pick: random.Random) -> str:
    country, length = pick.choice([("DE", 22), ("AT", 20), ("ES", 24), ("PL", 28), ("CH", 21)])
    account = _digits(pick, length - 4)
    check = 98 - int(account + "".join(str(int(c, 36)) for c in country) + "00") % 97
    iban = f"{country}{check:02}{account}"
    return pick.choice([iban, " ".join(iban[n : n + 4] for n in range(0, length, 4)), iban.lower()])


def _token(pick: random.Random, letters: str, count: int) -> str:
    return "".join(pick.choices(letters, k=count))


def _base64(pick: random.Random) -> str:
    return "".join(pick.choice(kind) for _ in range(14) for kind in (ascii_lowercase, digits, ascii_uppercase))


def _birth(pick: random.Random) -> str:
    date = pick.choice(["3/4/1990", "17.08.1985", "1990-04-03", "April 3, 1990", "3rd of April 1990", "03/04/90"])
    return pick.choice(["born {}", "born on {}", "dob {}", "DOB: {}", "date of birth is {}", "birthday {}"]).format(
        date
    )


def _after(pick: random.Random, words: list[str], secret: str) -> tuple[str, str]:
    return f"{pick.choice(words)} {secret}", secret


# Kind -> something that makes an example: (text, the part of it that must not be left).
MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "email": lambda pick: (made := _email(pick), made),
    "url": lambda pick: (made := _url(pick), made),
    "phone": lambda pick: (made := _phone(pick), made),
    "card": lambda pick: (made := _card(pick), made),
    "iban": lambda pick: (made := _iban(pick), made),
    "ssn": lambda pick: (made := f"{_digits(pick, 3)}-{_digits(pick, 2)}-{_digits(pick, 4)}", made),
    "ip (4)": lambda pick: (made := ".".join(str(pick.randrange(1, 255)) for _ in range(4)), made),
    "ip (6)": lambda pick: (made := f"2a02:{pick.randrange(16, 9999):x}:4::{pick.randrange(256, 65000):x}", made),
    "mac": lambda pick: (made := ":".join(f"{pick.randrange(256):02x}" for _ in range(6)), made),
    "address": lambda pick: (made := f"{pick.randrange(13, 9999)} {pick.choice(STREETS)}", made),
    "address (German)": lambda pick: (made := f"{pick.choice(GERMAN_STREETS)} {pick.randrange(1, 99)}", made),
    "coordinates": lambda pick: (made := f"{pick.uniform(1, 89):.5f}, {pick.uniform(-179, -1):.5f}", made),
    "crypto (bitcoin)": lambda pick: (made := "1" + _token(pick, BASE58, 31) + "7a", made),
    "crypto (bech32)": lambda pick: (made := "bc1q" + _token(pick, "023456789acdefghjklmnpqrstuvwxyz", 38), made),
    "crypto (ethereum)": lambda pick: (made := "0x" + _token(pick, "0123456789abcdef", 40), made),
    "key (hex)": lambda pick: (made := _token(pick, "0123456789abcdef", pick.choice([32, 40, 64])), made),
    "key (prefix)": lambda pick: (made := pick.choice(["sk-", "ghp_", "hf_", "sk_live_"]) + _base64(pick), made),
    "key (base64)": lambda pick: (made := _base64(pick), made),
    "number": lambda pick: (made := "1" + _digits(pick, pick.choice([11, 14, 20])) + "7", made),
    "password": lambda pick: _after(pick, PASSWORD_WORDS, _token(pick, ascii_lowercase, 6) + "7!x"),
    "code": lambda pick: _after(pick, CODE_WORDS, _digits(pick, pick.choice([4, 5, 6, 8]))),
    "account": lambda pick: _after(pick, ACCOUNT_WORDS, _digits(pick, 9)),
    "account (sort code)": lambda pick: (f"sort code {(made := '-'.join(_digits(pick, 2) for _ in range(3)))}", made),
    "id": lambda pick: (made := f"A{pick.choice('BEGKZ')}{_digits(pick, 6)}{pick.choice('ABCD')}", made),
    "id (passport)": lambda pick: (f"passport number {(made := 'L' + _digits(pick, 8))}", made),
    "plate": lambda pick: (f"plate is {(made := _token(pick, ascii_uppercase, 3) + ' ' + _digits(pick, 4))}", made),
    "birth_date": lambda pick: ((made := _birth(pick)), made.rsplit(" ", 1)[-1]),
}  # fmt: skip

CASE_MATTERS = ("crypto (bitcoin)", "key (prefix)", "key (base64)")  # in upper case they are no keys

ORDINARY = """
2-3 beers? | we lost 3-1 | 12/05/2024 works | at 10:30 | 1,299.00 | it was 2019 | room 1204 | 24/7 | v1.2.3
see you at 5
version 10.0.19045.1 | ios 17.4.1 | 2019-2024 | 2024-10-04 11:43:00 | 10 20 30 40 50 | 1 2 3 4 5 6 7 8 9 10
50/50
ok.see you | the password is wrong | I forgot my password | password is the same | 5 min drive | 100 year old road
ran 10.5km in 52:31 | $1,000,000 | hahahahahahahahahahahahahahahahaha | lol 1000000 | order 1-2 pizzas for 3-4 people
👍🏽👍🏽👍🏽 | 👩‍👩‍👧 9/10 would go | 6'2" | 20% off | flight BA2490 at 7:05 | gate B12 | bus 42 | seat 14C | 3.14159
1st place | 2nd of May | the 90s | 9 to 5 | 10-4 | 555 | 911 what's your emergency | 420 | H2O | mp3 | B2B | 4K | 5G
you're #1 | page 394 | chapter 12.3 | 2x4 | 1920x1080 | 16:9 | -5°C | 98.6 | 100% | 1/2 cup | 350 degrees for 20 min
call me at 5 | text me when ur home | my number is up | number 7 please | dial it back | what's your address
he was born in 1990 | happy birthday!! | birthday is on the 12th | 30th birthday party at 8 | account is empty
error code 404
code red | dress code? | area code? | in python 3.11 | pin it on the wall | bowling pin | pass the salt 2 times
passport expired
12 more days on the road | 3 blocks down the street | 2 people in the way | 20 minute walk | 1 long drive
10 km road trip
I have 3 kids, 2 cats & 1 dog | 7 up | 7-eleven at 11 | 3:30-4:45pm | mon 9-5, tue 10-6 | 8am-10pm | 2h30
1h 20m 30s
10,000 steps | 1.5 million | 2,500,000 views | 3.2k likes | #100daysofcode | top 10 | 0-0 draw | 6-4 6-3 7-5
21-19, 21-15
a/b testing | and/or | yes/no | he/she | w/o | c/o | n/a | 9/11 | Sept 11, 2001 | Oct 4 2024 | 4.10.2024 | 2024/10/4
20241004
x@ | @jo look | @ 7pm | lunch @ noon? | :) :D xD ;) | ... | !!! | ??? | e.g. this | i.e. that | U.S.A. | p.s. hi
etc.etc
$45.50 | €1.299,00 | £3.99 | ¥10000 | 15 bucks | 1 000 000 | 12 345 678 people | 1.000.000 | 60,000 km
IMG_20240101_123456.jpg | Screenshot 2024-01-01 at 10.30.15 | report_final_v2.docx | main.py line 120 | std::vector
a::b
supercalifragilisticexpialidocious | Donaudampfschifffahrtsgesellschaft | AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
ahhhhhhhhhhhhhhh
我在路上 | 今天3点见 | 25岁 | 2024年10月4日 | 第3名 | 100块钱 | 我们去市中心吧 | 走路10分钟 | 你好啊 | 3个人
"""  # fmt: skip


def ordinary() -> list[str]:
    """Texts in which nothing is private."""
    return [text.strip() for line in ORDINARY.strip().splitlines() for text in line.split(" | ")]


def labelled(count: int = 20) -> Iterator[tuple[str, str, str]]:
    """(kind, text, secret) for each kind of ``MAKERS`` in each of *count* or more places, always the same."""
    for kind, make in MAKERS.items():
        pick = random.Random(kind)
        for place in PLACES[: max(count, len(PLACES))]:
            example, secret = make(pick)
            yield kind, place.format(example), secret
        for _ in range(0 if kind in CASE_MATTERS else 5):
            example, secret = make(pick)
            yield kind, f"see {example.upper()} now", secret.upper()
