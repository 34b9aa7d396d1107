"""Times as Google Takeout writes them: whole sentences in the language of the account, always in UTC.

    Friday, May 29, 2026 at 3:00:29 AM UTC        Freitag, 29. Mai 2026 um 03:00:29 UTC
    2026年5月29日星期五 UTC 03:00:29                2026. május 29., péntek 3:00:29 UTC

A sentence is understood as a whole or not at all: an unknown word may be one for the afternoon.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

# January to December of each language; no word is one month here and another there.
_MONTHS = {
    word: number % 12 + 1
    for language in (
        "january february march april may june july august september october november december",
        "januar februar märz april mai juni juli august september oktober november dezember",
        "jänner feber märz april mai juni juli august september oktober november dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
        "januari februari maart april mei juni juli augustus september oktober november december",
        "januari februari mars april maj juni juli augusti september oktober november december",
        "januar februar marts april maj juni juli august september oktober november december",
        "januar februar mars april mai juni juli august september oktober november desember",
        "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta"
        " heinäkuuta elokuuta syyskuuta lokakuuta marraskuuta joulukuuta",
        "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
        "ledna února března dubna května června července srpna září října listopadu prosince",
        "január február március április május június július augusztus szeptember október november december",
        "ianuarie februarie martie aprilie mai iunie iulie august septembrie octombrie noiembrie decembrie",
        "ocak şubat mart nisan mayıs haziran temmuz ağustos eylül ekim kasım aralık",
        "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
        "січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня",
        "januari februari maret april mei juni juli agustus september oktober november desember",
    )
    for number, word in enumerate(language.split())
}
_DAY_NAME = r"[^\W\d]+(?:[-\s][^\W\d]+)?"  # "segunda-feira", "thứ hai"
_BETWEEN = r"[,.]?(?:\s(?:at|um|à|às|a las|alle ore|alle|om|kl\.?|klo|o|в|о|у|la|pukul|г\.,?|р\.,?)\.?)*,?"
_TIME = (
    r"(?P<hour>[0-9]{1,2})[:.](?P<minute>[0-9]{2})[:.](?P<second>[0-9]{2})(?:\s?(?P<half>[AaPp])\.?\s?[Mm]\.?)?\sUTC"
)
_FORMS = [
    re.compile(form)
    for form in (
        # Friday, May 29, 2026 at
        rf"{_DAY_NAME}, (?P<name>[^\W\d]+) (?P<day>[0-9]{{1,2}}), (?P<year>[0-9]{{4}}){_BETWEEN}\s{_TIME}",
        # Freitag, 29. Mai 2026 um; viernes, 29 de mayo de 2026; fredag den 29. maj 2026 kl.
        rf"{_DAY_NAME},? (?P<day>[0-9]{{1,2}})(?:\.|er)?(?: de)? (?P<name>[^\W\d]+)(?: de)? (?P<year>[0-9]{{4}})"
        rf"{_BETWEEN}\s{_TIME}",
        # 29 Mayıs 2026 Cuma; 2026. május 29., péntek: one word, as a second one could be the half of the day
        rf"(?P<day>[0-9]{{1,2}}) (?P<name>[^\W\d]+) (?P<year>[0-9]{{4}}) [^\W\d]{{4,}}\s{_TIME}",
        rf"(?P<year>[0-9]{{4}})\. (?P<name>[^\W\d]+) (?P<day>[0-9]{{1,2}})\., [^\W\d]{{4,}}\s{_TIME}",
        # 2026年5月29日星期五 UTC 03:00:29, or 金曜日 3時00分29秒 UTC; the halves of the day stand before the hour
        r"(?P<year>[0-9]{4})[年년]\s?(?P<month>[0-9]{1,2})[月월]\s?(?P<day>[0-9]{1,2})[日일]\s?"
        r"(?:(?:星期|週|周)[一二三四五六日天]|[月火水木金土日]曜日|[월화수목금토일]요일)?\s?(?P<zone>UTC\s)?"
        r"(?P<half>上午|下午|오전|오후)?\s?(?P<hour>[0-9]{1,2})(?:[:時시]\s?)(?P<minute>[0-9]{1,2})(?:[:分분]\s?)"
        r"(?P<second>[0-9]{1,2})[秒초]?(?(zone)|\s?\[?UTC\]?)",
    )
]
_AFTERNOON = {"p", "P", "下午", "오후"}


@lru_cache(maxsize=4096)
def written_moment(text: str) -> datetime | None:
    """The time that *text* says, in UTC; None if it is written in a way that is not known."""
    text = " ".join(text.split())  # U+202F and U+00A0 are spaces too
    match = next((match for form in _FORMS if (match := form.fullmatch(text))), None)
    if match is None:
        return None
    said = match.groupdict()
    month = int(said["month"]) if "month" in said else _MONTHS.get(said["name"].lower(), 0)
    hour = int(said["hour"])
    if said["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if said["half"] in _AFTERNOON else 0)
    day, clock = (int(said["year"]), month, int(said["day"])), (hour, int(said["minute"]), int(said["second"]))
    try:
        return datetime(*day, *clock, tzinfo=UTC)
    except ValueError:
        return None
