"""When something happened, as cameras, phones, scanners, editors and people write it. No I/O.

All times are of the camera's own clock: an offset from UTC is read and dropped, so that a picture of the evening of
5 June stays one of 5 June, wherever it is looked at.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache

_LONGEST_TEXT = 100  # characters that are looked at
_DAY = timedelta(days=1)
_FIRST = datetime(1826, 1, 1)  # the oldest photograph there is
_RELEASED_S = 1_782_864_000  # July 2026: a clock that says less is wrong, and no measure of what is in the future
_FARTHEST_ZONE = timedelta(hours=14)


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on the camera's clock, from `start` on for `span`: nothing, a day, a month or a year.

    `utc`: the start is UTC, and the camera's clock unknown. `unset`: written with zeros for the time and for the month
    or day, as by programs that fill in what they do not know.
    """

    start: datetime
    span: timedelta = timedelta(0)
    utc: bool = False
    unset: bool = field(default=False, compare=False)

    def holds(self, other: Moment) -> bool:
        """Whether `other` says the same more exactly."""
        if self.utc:
            return not (other.utc or other.span) and abs(other.start - self.start) <= _FARTHEST_ZONE
        return other.span < self.span and not other.utc and self.start <= other.start < self.start + self.span

    def at_longitude(self, degrees: float) -> Moment:
        """UTC as clocks at that longitude show it, by the sun: time zones follow it within an hour or three."""
        return Moment(self.start + timedelta(hours=round(degrees / 15)), self.span) if self.utc else self

    def isoformat(self) -> str:
        """ISO 8601 without an offset. A date without a time begins its day."""
        return self.start.isoformat()


# --- what to believe -------------------------------------------------------------------------------------

# Where counters of seconds and days begin or end: what a clock without a battery shows, and a field never set.
_RESET_DAYS = {
    (1858, 11, 17), (1899, 12, 30), (1899, 12, 31), (1900, 1, 1), (1904, 1, 1), (1970, 1, 1), (1979, 11, 30),
    (1980, 1, 1), (2036, 2, 7), (2038, 1, 19), (2040, 2, 6), (2106, 2, 7),
}  # fmt: skip
_EVES_OF_RESETS = {(1903, 12, 31), (1969, 12, 31), (1979, 12, 31)}  # the same, in time zones behind
_RESET_YEARS = {1990, *range(2000, 2006), 2010, 2014, 2015}  # clocks of cameras and phones begin in one of these
_COUNTED_FROM = {2000, 2001}  # counters begin in these, too: at a whole hour in any time zone
_RESET_MOMENTS = {
    datetime(1999, 11, 30),  # day 0 of month 0 of 2000
    *(datetime(2002, 12, 8, 12, 0, second) for second in range(60)),  # of several phones
}
_HOUR = timedelta(hours=1)

# Satellites count weeks from here, and after 1,024 of them begin anew.
_GPS_SOURCES = ("GPSDateStamp", "GPSTimeStamp")
_GPS_BEGAN = datetime(1980, 1, 6)
_GPS_ROUND = timedelta(weeks=1024)
_GPS_FIRST_PICTURE = datetime(1990, 1, 1)  # of a camera with a receiver, at the very earliest
_SOME_DAYS = timedelta(days=7)


def is_possible(moment: Moment, now_s: float | None = None) -> bool:
    """Whether a picture can be of that time: not the placeholder of a clock that was never set, nor the future."""
    try:
        last = datetime.fromtimestamp(max(time.time() if now_s is None else now_s, _RELEASED_S)) + _DAY
    except (OverflowError, ValueError, OSError):
        last = datetime(9999, 12, 31)
    start = moment.start
    if not _FIRST <= start <= last:
        return False
    if moment.span > _DAY:
        is_new_year = (start.month, start.day) == (1, 1)
        return not (moment.unset and is_new_year and (start.year in _RESET_YEARS or _day(start) in _RESET_DAYS))
    if _day(start) in _RESET_DAYS or (_day(start) in _EVES_OF_RESETS and (moment.span or start.hour >= 12)):
        return False
    return bool(moment.span) or not _is_reset(start.replace(microsecond=0))


def _is_reset(second: datetime) -> bool:
    """Whether clocks show this very second after a reset."""
    if second in _RESET_MOMENTS or _GPS_BEGAN <= second < _GPS_BEGAN + _HOUR:
        return True
    if (second.minute, second.second) != (0, 0) or second.hour == 12:  # people write noon
        return False
    if (second.month, second.day) == (1, 1):
        return (second.year in _RESET_YEARS and not second.hour) or (second.year in _COUNTED_FROM and second.hour < 12)
    return (second.month, second.day) == (12, 31) and second.hour > 12 and second.year + 1 in _COUNTED_FROM


def _day(moment: datetime) -> tuple[int, int, int]:
    return moment.year, moment.month, moment.day


def is_doubtful(moment: Moment) -> bool:
    """Whether it looks like a clock that began anew a little before, which is believed only where nothing else is said.

    Before 1990 there were no such clocks: 1 January at 0:00:00, or a year with zeros, is what people wrote.
    """
    start, date = moment.start, (moment.start.month, moment.start.day)
    if moment.unset:
        return start.year >= 1990
    if moment.span:
        return moment.span == _DAY and ((date == (1, 1) and start.year in _RESET_YEARS) or start == _GPS_BEGAN)
    if date == (1, 1) and start.hour == 0:
        return start.year >= 1990 or (start.minute, start.second) != (0, 0)
    if date == (12, 31) and start.hour > 12 and start.year + 1 in _COUNTED_FROM:
        return start.minute < 10
    return _GPS_BEGAN - _DAY / 2 <= start < _GPS_BEGAN + _DAY


def _is_possible_of(source: str, moment: Moment) -> bool:
    """As `is_possible`, by what is known of the source."""
    if not source.endswith(_GPS_SOURCES):
        return is_possible(moment)
    second_round = _GPS_BEGAN + _GPS_ROUND
    if moment.start < _GPS_FIRST_PICTURE or _day(moment.start) == _day(second_round):
        return False
    return is_possible(moment)


def _is_doubtful_among(source: str, moment: Moment, others: list[tuple[str, Moment]]) -> bool:
    if source == "name" and moment.span:
        return False  # a name takes its day from where clocks are right: a messenger's server, a person
    if is_doubtful(moment):
        return True
    if source.endswith(_GPS_SOURCES):
        third_round = _GPS_BEGAN + 2 * _GPS_ROUND
        if _day(moment.start) == _day(third_round) and moment.start.hour == 0:
            return True
        return any(
            other.span <= _DAY
            and not other_source.endswith(_GPS_SOURCES)
            and any(abs(other.start - moment.start - rounds * _GPS_ROUND) <= _SOME_DAYS for rounds in (1, 2))
            for other_source, other in others
        )
    # What a server took from the camera's clock confirms nothing.
    return source.startswith("takeout:") and any(
        not other.utc and not other.span and is_doubtful(other) and abs(other.start - moment.start) <= _FARTHEST_ZONE
        for _, other in others
    )


def choose(said: Iterable[tuple[str, Moment | None]]) -> tuple[str, Moment] | None:
    """The first of some statements that can be believed; a later one where it says the same more exactly.

    What is doubtful counts only where nothing else is said, or where the first that is not says the same day.
    """
    possible = [(source, moment) for source, moment in said if moment is not None and _is_possible_of(source, moment)]
    firm = [item for item in possible if not _is_doubtful_among(*item, possible)]
    if firm:
        first = firm[0][1]
        possible = [item for item in possible if item in firm or (not item[1].span and _agree(item[1], first))]
    if not possible:
        return None
    chosen = possible[0]
    for other in possible[1:]:
        if chosen[1].holds(other[1]):
            chosen = other
    return chosen


def _agree(doubtful: Moment, firm: Moment) -> bool:
    return firm.span <= _DAY and abs(doubtful.start - firm.start) <= _DAY


# --- reading -----------------------------------------------------------------------------------------------

# Halves of the day: English, Spanish and others, Turkish, Greek, Arabic, Chinese, Japanese, Korean, Persian, Hindi,
# Thai, Bulgarian, Macedonian, Ukrainian, Hebrew, Czech.
# A letter, or a mark of one that is written with marks.
_L = (
    r"(?:[^\W\d_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0970-\u09e3\u09f0-\u0df4\u0e31-\u0e4e"
    r"\u0eb1-\u0ece\u0f71-\u0fbc\u102b-\u103e\u1780-\u17d3])"
)
_HALF = (
    r"(?:[上下]午|午[前後]|오[전후]|凌晨|清晨|早上|中午|傍晚|晚上|पूर्वाह्न|अपराह्न|ก่อนเที่ยง|หลังเที่ยง"
    r"|(?:[ap]\.?\s?m|ö[ös]|[πμ]\.?\s?μ|[صم]|[قب]\.?ظ|(?:пр|сл)\.\s?об|претпл|попл|[дп]п|(?:לפנה|אחה)[״\"]?צ|dop|odp)"
    r"(?![^\W\d_])\.?)"
)
_AFTERNOON, _MORNING = (
    frozenset(words.split())
    for words in (
        "pm ös μμ م 下午 午後 오후 傍晚 晚上 अपराह्न หลังเที่ยง بظ слоб попл пп אחהצ odp",
        "am öö πμ ص 上午 午前 오전 凌晨 清晨 早上 पूर्वाह्न ก่อนเที่ยง قظ проб претпл дп לפנהצ dop",
    )
)
# What is a half only behind a time that its language's word for "at" stands before, as in `lúc 10.11.12 CH`.
_HALVES_BEHIND = {"lúc": ("sa", "ch"), "pada": ("pg", "ptg"), "në": ("pd", "md"), "klo": ("ap", "ip")}
_BEHIND = "|".join(half for pair in _HALVES_BEHIND.values() for half in pair)
_AT_A_HALF = re.compile(rf"\b({'|'.join(_HALVES_BEHIND)})\s.*\b({_BEHIND})\.?$", re.DOTALL)
_TIME = re.compile(
    r"(?!-\d\d:\d\d$)(?:\s*[t,;_./\-]?\s*|,?\s*\b(?:at|um|à|às|à\(s\)|a la(?:s|\(s\))|alle|ore|om|o|u|kl\.?|"
    r"klo|kell|lúc|saat|pada|në|στις|в)\s+)"
    rf"(?P<before>{_HALF})?\s*"
    r"(?P<hour>\d{1,2})\s*(?P<sep>[:.h時时시\-_])\s*(?P<minute>\d{1,2})"
    r"(?:\s*(?:(?P=sep)|[.m分분'])\s*(?P<second>\d{1,2})?(?:\s*(?:s(?![^\W\d_])|[秒초\"]))?(?:[.,:](?P<fraction>\d{1,12}))?)?"
    rf"(?:\s*(?P<after>{_HALF}|(?:{_BEHIND})(?![^\W\d_])\.?))?"
)
_COMPACT_TIME = re.compile(
    r"[t_\-\s]*(?P<hour>\d{2})(?P<minute>\d{2})(?:(?P<second>\d{2})(?:[.,]?(?P<fraction>\d{1,12}))?)?(?!\d)"
)
_SPACED_TIME = re.compile(r"[t\s]*(?P<hour>\d{2}) (?P<minute>\d{2})(?: (?P<second>\d{2}))?(?P<fraction>)(?!\d)")
_YEAR_FIRST = re.compile(
    r"(\d{4})\s*[:\-/._年년\s]\s*(\d{1,2}|(?=[\s:\-/.]))\s*[:\-/._月월\s]\s*(\d{1,2}(?!\d)|(?=[\s:]|$))\s*[日일]?\.?"
)
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?=\d{4}(?!\d)|\d{6}|\D|$)")
_DAY_FIRST = re.compile(r"(\d{1,2})\s?([./\-])\s?(\d{1,2})\s?\2\s?(\d{4})(?!\d)")
_MONTH_ONLY = re.compile(r"(\d{4})\s*[:\-/.年년]\s*(\d{1,2})\s*[月월]?\s*")
_ISO_DAY = re.compile(
    r"(\d{4})(?:-(?P<day>\d{3})|(?P<compact>\d{3})(?=t\d)|-?w(?P<week>\d\d)-?(?P<weekday>[1-7]))(?=t\d|\s|z?$)"
)
_OFFSET = re.compile(
    r"\b(?:utc|gmt)\s?[+\-]\d{1,2}\b(?!:)|(?:\b(?:utc|gmt)|(?<=\d)\s*|\s)[+\-](?:0\d|1[0-4]):?[0-5]\d\b"
)
_SECONDS_SINCE_1970 = re.compile(r"(?:(\d{9,10})(?:\d{3})?|(\d{10})(?:\d{6}|\d{9}))(?:\.\d+)?")
_OF_JSON = re.compile(r"\\?/?date\((-?\d{1,14})(?:[+\-]\d{4})?\)\\?/?")  # thousandths of seconds
_ABOUT = re.compile(
    r"^(?:c\.?|ca\.?|circa|about|approx\.?|approximately|around|etwa|um|vers|env\.?|environ|hacia|verso|около|約|约|~)"
    r"\s*(?=\d{4})|(?<=\d)\s*(?:\(\?\)|[?~%])$"
)
_UNKNOWN_PART = re.compile(r"(?<=[\dxu])-(?:xx|uu)(?![^\W_])")
_GLUED = re.compile(r"^(\d{4}[:\-/.]\d\d[:\-/.]\d\d):?(?=\d\d[:.]\d\d)")
# What may stand behind a date and is another one, not a time: where something lasted, or a list.
_ANOTHER = re.compile(
    r"[\s_]*(?:--?|[/~,;&]|\.{2,3}|(?:to|bis|until|till|au|al|до|по|и|and|und|et|y|e)(?=[\s_]))?[\s_]*"
    r"(?:(?:1[89]|2\d)\d\d(?P<sep>[\-/.:_])\d{1,2}(?P=sep)\d{1,2}(?!\d)"
    r"|\d{1,2}(?P<sep2>[\-/._])\d{1,2}(?P=sep2)(?:1[89]|2\d)\d\d(?!\d)"
    r"|(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d))"
    r"|(?:\s+|(?<=\s))[\-/~]\s+(?:\d{4}|\d{1,2}-\d{1,2})(?!\d|[:.\-]\d)|/\d{4}(?!\d)"
)
_UNTIL = re.compile(r"\s(?:--?|to|bis|until|till|au|al|до|по)\s|[/~]")

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar jänner janvier janv enero ene gennaio gen janeiro januari styczeń stycznia sty leden "
            "ledna января янв ocak oca január tammikuu tammikuuta",
            "feb february februar février févr fév febrero febbraio fevereiro fev februari luty lutego lut únor února "
            "февраля фев şubat şub február febr helmikuu helmikuuta",
            "mar march märz mrz mär mars marzo março maart mrt marzec marca březen března марта мар mart március "
            "márc maaliskuu maaliskuuta",
            "apr april avril avr abril abr aprile kwiecień kwietnia kwi duben dubna апреля апр nisan nis április "
            "ápr huhtikuu huhtikuuta",
            "may mai mayo maggio mag maio mei maj maja květen května мая май mayıs május máj toukokuu toukokuuta",
            "jun june juni juin junio giugno giu junho czerwiec czerwca cze červen června июня июн haziran haz "
            "június jún kesäkuu kesäkuuta",
            "jul july juli juillet juil julio luglio lug julho lipiec lipca lip červenec července июля июл "
            "temmuz tem július júl heinäkuu heinäkuuta",
            "aug august août aoû agosto ago augustus augusti sierpień sierpnia sie srpen srpna августа авг "
            "ağustos ağu augusztus elokuu elokuuta",
            "sep sept september septembre septiembre settembre set setembro wrzesień września wrz září сентября сен "
            "eylül eyl szeptember szept syyskuu syyskuuta",
            "oct october oktober okt octobre octubre ottobre ott outubro out październik października paź říjen října "
            "октября окт ekim eki október lokakuu lokakuuta",
            "nov november novembre noviembre novembro listopad listopada lis listopadu ноября ноя kasım kas "
            "marraskuu marraskuuta",
            "dec december dezember dez décembre déc diciembre dic dicembre dezembro desember des grudzień grudnia gru "
            "prosinec prosince декабря дек aralık ara joulukuu joulukuuta",
        ),
        1,
    )
    for name in names.split()
}


def _month(word: str) -> int | None:
    """The number of a month by its name."""
    return _MONTHS.get(word) or _other_months().get(word)


@lru_cache(maxsize=1)
def _other_months() -> dict[str, int]:
    """Names of months in many languages, of one word, also without accents; for texts with a name that is not above."""
    from clipsearch.pictures.metadata.months import NAMES

    found = {name.replace("_", ""): number for number, names in enumerate(NAMES, 1) for name in names.split()}
    for name, number in [*_MONTHS.items(), *found.items()]:
        if name[0] < "\u0530" and not name.isascii():
            found.setdefault(_without_accents(name), number)
    return found


def _without_accents(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


_ENGLISH = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ERAS = {"明治": 1867, "大正": 1911, "昭和": 1925, "平成": 1988, "令和": 2018, "民國": 1911, "民国": 1911}
_ERA_LETTERS = {"m": 1867, "t": 1911, "s": 1925, "h": 1988, "r": 2018}
_SPELLED = re.compile(
    rf"(?P<era>{'|'.join(_ERAS)})\s?(?P<year>\d{{1,3}}|元)\s?年"
    r"|\b(?:tháng|thang|thg)\.?\s?(?P<month>1[0-2]|0?[1-9])(?!\d)"  # Vietnamese
    r"|(?P<october>(?<=\d\.\s)listopada\b)"  # Croatian; without a dot it is Polish, and November
    r"|(?P<dot>(?<=[\u0e01-\u0e5b])\.(?=[\u0e01-\u0e5b]))"
    r"|(?P<two>كانون الثاني|كانون الأول|تشرين الأول|تشرين الثاني|meán fómhair|deireadh fómhair)"
)
_ERA_OF_ONE_LETTER = re.compile(r"([mtshr])(\d{1,2})(?=[./\-]\d{1,2}[./\-]\d{1,2}(?!\d))")
_TURNS = dict.fromkeys((0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))  # marks of direction


def _spelled_out(text: str) -> str:
    """A text in which years of emperors are of the calendar, and months are one word."""

    def other(match: re.Match[str]) -> str:
        if (era := match["era"]) is not None:
            return f"{_ERAS[era] + (1 if match['year'] == '元' else int(match['year']))}年"
        if (month := match["month"]) is not None:
            return f" {_ENGLISH[int(month) - 1]}"
        if match["october"]:
            return "october"
        return (match["two"] or "").replace(" ", "")

    return _SPELLED.sub(other, text)


_WORD = re.compile(rf"{_L}+")
_CLOCK = re.compile(
    rf"(?:{_HALF}\s*)?"
    r"(?<![\d.])\d{1,2}(?P<sep>[:.])\d{2}(?:(?P=sep)\d{2}(?:[.,]\d{1,12})?)?"
    rf"(?:\s*{_HALF})?(?!\.?\d)"
)
_SHORT_YEAR = re.compile(
    rf"(?:{_L}{{2,12}}\.?,?\s+)?(\d{{1,2}})\.?(?P<sep>[\-/ ])({_L}{{2,20}})\.?,?(?P=sep)['’]?(\d{{2}})(?![\d:.h])"
)
_A_FULL_YEAR = re.compile(r"(?<![\d+\-])(?:18|19|20)\d\d(?!\d)")
_FOUR_DIGITS = re.compile(r"(?<!\d)\d{4}(?!\d)")
_DASHES = dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D), "-")
_OF_PDF = re.compile(r"d:(?=\d{4})")


def read_moment(text: str) -> Moment | None:
    """What a field that should hold a date says; None where that is no date.

    ISO 8601, EXIF (blanks for what is not known), RFC 2822 and 1123, compact digits, year, month and day in this or,
    where that is clear, in the other order, names of months in many languages, years of Japanese emperors, seconds
    since 1970. Of two dates, the first.
    """
    text = _plain(text)
    if not text:
        return None
    since = _OF_JSON.fullmatch(text)
    if since is not None:
        return since_1970(int(since[1]) // 1000)
    if (era := _ERA_OF_ONE_LETTER.match(text)) is not None:
        text = f"{_ERA_LETTERS[era[1]] + int(era[2])}{text[era.end() :]}"
    text = _GLUED.sub(r"\1 ", _UNKNOWN_PART.sub("-00", _ABOUT.sub("", _spelled_out(text))))
    compact = _COMPACT.match(text)
    if compact is not None:
        found = _date(compact[1], compact[2], compact[3])
        if found is not None:
            is_followed = _ANOTHER.match(text, compact.end()) is not None
            at = _COMPACT_TIME.match(text, compact.end()) or _TIME.match(text, compact.end())
            return _timed(found, None if is_followed else at)
    since = _SECONDS_SINCE_1970.fullmatch(text)
    if since is not None:
        return since_1970(int(since[1] or since[2]))
    match = _ISO_DAY.match(text)
    if match is not None:
        return _timed(_iso_day(match), _time_at(text, match.end()))
    match = _YEAR_FIRST.match(text)
    if match is not None:
        return _timed(_date(match[1], match[2], match[3]), _time_at(text, match.end()))
    match = _DAY_FIRST.match(text)
    if match is not None:
        return _timed(_day_first(match), _time_at(text, match.end()))
    match = _MONTH_ONLY.fullmatch(text)
    if match is not None:
        return _date(match[1], match[2], "")
    if len(text) == 4 and text.isdecimal():
        return _date(text, "", "")
    return _named_month(text) or (_named_month(text[: two.start()]) if (two := _UNTIL.search(text)) else None)


def since_1970(seconds: float) -> Moment | None:
    """The moment so many seconds after 1970 began, UTC."""
    try:
        return Moment(datetime(1970, 1, 1) + timedelta(seconds=seconds), utc=True)
    except (OverflowError, ValueError):
        return None


_NUL_BEFORE_TIME = re.compile(r"(?<=\d)\0+(?=\s?\d{1,2}:\d\d(?::|\b))")  # between the fields of a fixed length


def _plain(text: str) -> str:
    """The beginning of a text, lower-case, with plain digits and nothing but single spaces between what it holds."""
    text = _NUL_BEFORE_TIME.sub(" ", text.strip("\0 \t\r\n")[:_LONGEST_TEXT]).split("\0")[0]
    if not text.isascii():
        text = _with_plain_digits(unicodedata.normalize("NFKC", text.translate(_DASHES | _TURNS)))
    text = "".join(c if c.isprintable() else " " for c in text.lower()).strip().strip(_QUOTES).strip()
    return text[2:] if _OF_PDF.match(text) else text


_QUOTES = "\"'`“”„«»‘’‚"


def _with_plain_digits(text: str) -> str:
    return "".join(str(unicodedata.digit(c)) if c.isdigit() else c for c in text).replace("İ", "i")


def _date(year: str, month: str, day: str) -> Moment | None:
    """A date; without a day or a month (none, or zero) a month or a year."""
    y, m, d = int(year), int(month or 0), int(day or 0)
    if 2443 <= y <= 2700:
        y -= 543  # the Buddhist calendar, which phones sold in Thailand write
    try:
        if m == 0:
            return Moment(datetime(y, 1, 1), datetime(y + 1, 1, 1) - datetime(y, 1, 1)) if d == 0 else None
        if d == 0:
            following = datetime(y + m // 12, m % 12 + 1, 1)
            return Moment(datetime(y, m, 1), following - datetime(y, m, 1))
        return Moment(datetime(y, m, d), _DAY)
    except (ValueError, OverflowError):
        return None


def _iso_day(match: re.Match[str]) -> Moment | None:
    """A day of the year, 2011-156, or of a week, 2011-W22-7."""
    year, number = int(match[1]), match["day"] or match["compact"]
    try:
        if number is None:
            return Moment(datetime.fromisocalendar(year, int(match["week"]), int(match["weekday"])), _DAY)
        start = datetime(year, 1, 1) + timedelta(days=int(number) - 1)
    except (ValueError, OverflowError):
        return None
    return Moment(start, _DAY) if start.year == year else None


def _in_half(hour: int, match: re.Match[str]) -> int | None:
    """An hour of twelve as one of 24, by what is written for the half of the day; None where that leaves two."""
    parts = match.groupdict()
    half = re.sub(r"[.\s״\"]", "", parts.get("before") or parts.get("after") or "")
    if (found := _AT_A_HALF.search(match[0].rstrip())) is not None:
        morning, afternoon = _HALVES_BEHIND[found[1]]
        half = {morning: "am", afternoon: "pm"}.get(half, "")
    if half == "晚上" and hour == 12:
        return None
    if (half in _AFTERNOON and hour < 12) or (half == "中午" and hour < 4):
        return hour + 12
    return 0 if half in _MORNING and hour == 12 else hour


def _day_first(match: re.Match[str]) -> Moment | None:
    """5.6.2011, or 5/6/2011 where only one order is possible; otherwise the year is all that is certain."""
    first, separator, second, year = match.groups()
    if separator == "." or int(first) > 12 or first == second:
        return _date(year, second, first)
    if int(second) > 12:
        return _date(year, first, second)
    return _date(year, "", "")


def _time_at(text: str, at: int) -> re.Match[str] | None:
    if _ANOTHER.match(text, at) is not None:
        return None
    return _TIME.match(text, at) or _COMPACT_TIME.match(text, at) or _SPACED_TIME.match(text, at)


def _timed(date: Moment | None, match: re.Match[str] | None) -> Moment | None:
    """A day with the time that stands behind it, if there is one."""
    if date is None or match is None:
        return date
    parts = match.groupdict()
    hour, minute, second = int(parts["hour"]), int(parts["minute"]), int(parts["second"] or 0)
    if date.span != _DAY:
        return replace(date, unset=(hour, minute, second) == (0, 0, 0))
    in_day = _in_half(hour, match)
    if in_day is None:
        return date
    hour = in_day
    micros = int((parts["fraction"] or "0")[:6].ljust(6, "0"))
    if (hour, minute, second) == (24, 0, 0):  # the end of the day, and no other
        hour, minute, second, micros = 23, 59, 59, 0
    second = min(second, 59) if second <= 60 else second  # a leap second
    try:
        return Moment(date.start.replace(hour=hour, minute=minute, second=second, microsecond=micros))
    except ValueError:
        return date


def _named_month(text: str) -> Moment | None:
    """`Sun, 05 Jun 2011 10:11:12 +0200`, `Sun Jun  5 10:11:12 2011`, `5 de junio de 2011`, `June 2011`."""
    short = _SHORT_YEAR.match(text)  # 05-Jun-11, 5 Jun 11, as databases and mail write it: the day first
    if short is not None and (month := _month(short[3])) and not _A_FULL_YEAR.search(text, short.end()):
        year = int(short[4]) + (2000 if int(short[4]) < 69 else 1900)
        return _timed(_date(str(year), str(month), short[1]), _time_at(text, short.end()))
    if not _FOUR_DIGITS.search(text):
        return None
    words = _WORD.findall(text)
    words = [word for word in words if word in _MONTHS] or [word for word in words if word in _other_months()]
    if len(words) > 1 and "mar" in words:
        words.remove("mar")  # Tuesday: mardi, martes, martedì
    months = [_month(word) for word in words]
    if len(months) != 1:
        return None
    rest = _OFFSET.sub(" ", text)
    clock = _CLOCK.search(rest)
    if clock is not None:
        rest = rest[: clock.start()] + " " + rest[clock.end() :]
    numbers = re.findall(r"\d+", rest)
    years = [number for number in numbers if len(number) == 4]
    days = [number for number in numbers if len(number) <= 2]
    if len(years) != 1 or len(numbers) != 1 + len(days) or len(days) > 1:
        return None
    date = _date(years[0], str(months[0]), days[0] if days else "")
    return _timed(date, _TIME.match(clock[0]) if clock is not None else None)


def with_fraction(moment: Moment | None, digits: str) -> Moment | None:
    """A moment to the second with its fraction, which EXIF keeps in a field of its own."""
    digits = _plain(digits)
    if moment is None or moment.span or moment.start.microsecond or not (digits.isascii() and digits.isdigit()):
        return moment
    return replace(moment, start=moment.start.replace(microsecond=int(digits[:6].ljust(6, "0"))))


# --- names of files -------------------------------------------------------------------------------------

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LONG_HEX = re.compile(r"(?<![0-9a-z])(?=[0-9]*[a-f])[0-9a-f]{20,}(?![0-9a-z])")
_NAMED_DATE = re.compile(
    r"(?<!\d)(?:"
    r"(?P<year>(?:18|19|20|25)\d\d)(?P<sep>[\-_. :]?)(?P<month>0[1-9]|1[0-2])(?P=sep)(?P<day>0[1-9]|[12]\d|3[01])"
    r"|(?P<year2>20\d\d)[_\-](?P<month2>0[1-9]|1[0-2])(?P<day2>0[1-9]|[12]\d|3[01])(?=[_\-]\d{6}(?!\d))"
    r"|(?P<year3>\d{4})[年년]\s?(?P<month3>\d{1,2})[月월]\s?(?P<day3>\d{1,2})[日일]"
    r"|(?P<day4>0?[1-9]|[12]\d|3[01])\.(?P<month4>0?[1-9]|1[0-2])\.(?P<year4>(?:18|19|20)\d\d)"
    r"|(?P<year14>20\d\d)_(?P<month14>0?[1-9]|1[0-2])_(?P<day14>[12]\d|3[01]|0?[1-9])(?=_\d{1,2}_\d{1,2}(?!\d))"
    r"|(?P<year5>(?:18|19|20)\d\d)(?P<sep5>[\-.])(?P<month5>0?[1-9]|1[0-2])(?P=sep5)(?P<day5>[12]\d|3[01]|0?[1-9])(?!\d)"
    r"(?!\.\d{1,4}(?:\D|$)(?!\d))"  # versions
    r"|(?<=@)(?P<day6>[0-3]\d)-(?P<month6>[01]\d)-(?P<year6>20\d\d)(?=_)"  # Telegram Desktop
    r"|(?P<day7>1[3-9]|2\d|3[01])(?P<sep7>[\-_ ])(?P<month7>0?[1-9]|1[0-2])(?P=sep7)(?P<year7>(?:18|19|20)\d\d)"
    r"|(?P<month8>0?[1-9]|1[0-2])(?P<sep8>[\-_ ])(?P<day8>1[3-9]|2\d|3[01])(?P=sep8)(?P<year8>(?:18|19|20)\d\d)"
    r"|(?<=picsart_)(?P<year9>\d\d)-(?P<month9>[01]\d)-(?P<day9>[0-3]\d)(?=_)"
    r"|(?:(?<=photo )|(?<=foto )|(?<=video )|(?<=vidéo )|(?<=immagine )|(?<=imagen )|(?<=bild ))"  # Dropbox's uploads
    r"(?P<day10>[0-3]\d)\.(?P<month10>[01]\d)\.(?P<year10>\d\d)(?= [0-2]\d[ .]\d\d[ .]\d\d)"
    # the day and the month in either order: a date where they are the same number; else its year begins no other one
    r"|(?P<day11>0?[1-9]|1[0-2])(?P<sep11>[\-_])(?P<month11>0?[1-9]|1[0-2])(?P=sep11)(?P<year11>(?:18|19|20)\d\d)"
    r"|(?P<day12>0[1-9]|1[0-2]) (?P<month12>0[1-9]|1[0-2]) (?P<year12>(?:18|19|20)\d\d)"
    r"|(?P<year13>(?:18|19|20)\d\d)\. (?P<month13>0?[1-9]|1[0-2])\. (?P<day13>[12]\d|3[01]|0?[1-9])\."  # Hungary, Korea
    r")(?=\d{6}(?:\d{3})?(?!\d)|\d{4}(?!\d)|\D|$|\d{8}-\s*$|(?<=[日일])\d{1,2}[時时시])"
    r"(?!_(?!1\d{9}(?!\d))[0-9a-f]{10}(?![0-9a-z]))"  # a number of a site that keeps pictures, and the secret behind it
)
_MOST_BEFORE = 40  # characters
# Before what looks like a date that begins with its year: a size in pixels, another year, a telephone number.
_NO_YEAR_FOLLOWS = re.compile(
    r"\d\s?[x×]\s?$|(?:^|\D)(?P<year>(?:18|19|20)\d\d)(?P<sep>[\-_. ])$"
    r"|(?:\+\d|\b_?(?:tel|telefon|telephone|phone|fax|mobil|mobile|handy|call)[\s._\-:]*\+?\d)[\d\s.\-_]*$"
)
_OLD = 1990  # before there were cameras that count their pictures
_COUNTED = re.compile(r"\d[\-_. ]$")
_NAMED_TIME = re.compile(
    r"(?:[\-_., t]{0,3}"
    rf"|,?[\s_](?!{_HALF}){_L}{{1,7}}(?:\(s\)|\.)?(?:[\s_](?!{_HALF}){_L}{{1,4}}(?:\(s\))?)?[\s_])"
    rf"(?P<before>{_HALF})?\s?"
    r"(?:(?P<hour>[01]\d|2[0-3])(?P<sep>[\-_.:h時时시 ]?)(?P<minute>[0-5]\d)(?:(?P=sep)|[.m:'分분])(?P<second>[0-5]\d)"
    r"(?:[\-.]?(?P<fraction>\d{3}|\d\d(?=-\s*$)))?(?!\d)"
    r"|(?P<hour1>\d|[01]\d|2[0-3])(?P<sep1>[.:h])(?P<minute1>[0-5]\d)(?:(?P=sep1)(?P<second1>[0-5]\d))?(?!\d)"
    r"|(?<=\d)(?P<hour2>[01]\d|2[0-3])(?P<minute2>[0-5]\d)(?=\s*$)"
    r"|(?P<hour3>\d|[01]\d|2[0-3])[時时시]\s?(?P<minute3>[0-5]?\d)[分분](?:\s?(?P<second3>[0-5]?\d)[秒초])?)"
    rf"(?:[\s_]*(?P<after>{_HALF}|(?:{_BEHIND})(?![^\W\d_])\.?))?"
)
# A time without seconds, close behind a day: 1011 or 10-11. Counters begin with zeros, and some numbers are sizes.
_NAMED_MINUTE = re.compile(
    r"(?:[\-_ t]|[\s_](?:at|um|à|om|kl|kl\.)[\s_])(?P<hour>0[1-9]|1\d|2[0-3])(?P<sep>[\-_ ]?)(?P<minute>[0-5]\d)"
    r"(?=$|[\s_(]|[\-.](?!\d))(?![\s_](?:480|600|720|768|1080)(?!\d))"
)
_NAMED_SINGLE_DIGITS = re.compile(r"_(?P<hour>\d{1,2})_(?P<minute>\d{1,2})(?:_(?P<second>\d{1,2}))?(?!\d)")
_NAMED_SECONDS = re.compile(
    r"(?:fb_img_|img[_-]|mmexport|wx_camera_|micromsg\.|image[_-]|photo[_-]|picture[_-]|pic[_-]|camera[_-]|cache[_-]|"
    r"screenshot[_-]|collage[_-]|inshot[_-]|photogrid_|beautyplus_|line_|kakaotalk_|retouch_|^)(\d{10})\d{3}(?!\d)"
    # any name with thousandths of seconds, but of things that are counted
    r"|(?<![^\W\d_])(?!(?:ean|isbn|upc|gtin|tel|phone|telephone|telefon|fax|mobil|mobile|handy|call|no|nr|id|order|sku|artikel|"
    r"item|tracking|barcode)[_-])[^\W\d_]{2,20}[_-](1[0-9]{9})\d{3}(?![\d\-])"
    # programs that write whole seconds, or thousandths
    r"|(?:rpreplay[_-]?final|received_|faceapp_|photofunia-|fb_img_|snapchat[_-]|screenshot[_-]|"
    r"photogrid_|messenger_creation_|creation_|picsart_|b612_|camera360_|beauty_|beautyplus_|meitu_|faceu_|snow_|inshot_|"
    r"collage_|polish_|lightroom_|vsco_|viber_image_|telegram_|tiktok_|wechat_|weixin_|wx_camera_|line_|kakaotalk_|zalo_)(\d{10})(?:\d{3})?(?!\d)"
)
_UNLIKELY_MONTHS = frozenset({"set", "out"})  # abbreviated September and October, and English words
_A_YEAR = r"((?:18|19|20|25)\d\d)(?!\d)"
_OF = r"(?:(?:(?:de|di|del|of|năm|nam)[\s_]|d['’]))?"
_NAMED_DAY_FIRST = re.compile(
    rf"(?<![\d.,])(\d{{1,2}})(?:\.|st|nd|rd|th|er|re|º|°)?[\s_\-]{{0,3}}{_OF}({_L}{{2,20}})[.,]?[\s_\-]{{0,3}}{_OF}"
    + _A_YEAR
)
_NAMED_MONTH_FIRST = re.compile(
    rf"(?<![^\W\d_])({_L}{{2,20}})\.?[\s_\-]{{0,3}}(\d{{1,2}})(?:st|nd|rd|th)?(?:,[\s_\-]?|[\s_\-]{{1,3}})" + _A_YEAR
)
_NAMED_MONTH_BETWEEN = re.compile(
    r"(?<!\d)((?:18|19|20|25)\d\d)(?:\s(?:m|metų)\.?(?=\s))?(?:\(?e\)?ko)?[\s_\-.,]{0,3}"
    rf"({_L}{{2,20}})\.?[\s_\-]{{0,3}}(\d{{1,2}})(?:st|nd|rd|th|\.)?(?!\d)"
)
_NAMED_LATVIAN = re.compile(rf"(?<!\d)((?:18|19|20)\d\d)\.?\sgada\s(\d{{1,2}})\.\s({_L}{{2,20}})")
_NAMED_SHORT_YEAR = re.compile(rf"(?<![\d.,])(\d{{1,2}})(?P<sep>[\-_. ]?)({_L}{{3,20}})(?P=sep)(\d{{2}})(?![\d.,])")


def moment_of_name(name: str) -> Moment | None:
    """The date in the name of a file, as cameras, phones, programs and people put it there, with its time if any.

    IMG-20110605-WA0007, PXL_20110605_101112345, Screenshot 2011-06-05 at 10.11.12, 2011_0605_101112, 5.6.2011.
    """
    text = unicodedata.normalize("NFKC", name[:255].rpartition("/")[2])
    text = (text if text.isascii() else _with_plain_digits(text.translate(_TURNS))).lower()
    stem, dot, ending = text.rpartition(".")
    text = stem if dot and stem and len(ending) <= 5 and not ending.isdecimal() else text
    text = _spelled_out(_LONG_HEX.sub(" ", _UUID.sub(" ", text)))
    for date, end in _dates_in(text):
        if date is None or not is_possible(date):
            continue
        return _at_named_time(date, text, end)
    seconds = _NAMED_SECONDS.search(text)
    if seconds is not None:
        moment = since_1970(int(seconds[1] or seconds[2] or seconds[3]))
        if moment is not None and moment.start.year >= 2000 and is_possible(moment):
            return moment
    return None


def _at_named_time(date: Moment, text: str, end: int) -> Moment:
    """A day in a name with the time that stands behind it, if there is one."""
    if _ANOTHER.match(text, end) is not None:
        return date
    found = (
        _NAMED_TIME.match(text, end)
        or _NAMED_MINUTE.match(text, end)
        or (_NAMED_SINGLE_DIGITS.match(text, end) if text[end - 2] == "_" or text[end - 3] == "_" else None)
    )
    if found is None:
        return date
    parts = {key.rstrip("123"): value for key, value in found.groupdict().items() if value is not None}
    hour = _in_half(int(parts["hour"]), found)
    if hour is None:
        return date
    micros = int(parts.get("fraction", "0").ljust(6, "0"))
    try:
        clock = date.start.replace(hour=hour, minute=int(parts["minute"]), second=int(parts.get("second", 0)))
        return Moment(clock.replace(microsecond=micros))
    except ValueError:
        return date


def _may_begin(year: str, separator: str, before: str) -> bool:
    """Whether a year that stands behind something begins a date, and is no part of a number."""
    found = _NO_YEAR_FOLLOWS.search(before[-_MOST_BEFORE:])
    if found is not None and (found["year"] is None or (found["sep"] == separator and found["year"] != year)):
        return False
    return int(year) >= _OLD or not separator or not before.endswith(separator) or not _COUNTED.search(before[-2:])


def _dates_in(text: str) -> Iterator[tuple[Moment | None, int]]:
    """The days in a name, in digits before those with the name of a month, each with where it ends."""
    for match in _NAMED_DATE.finditer(text):
        parts = {key.rstrip("0123456789"): value for key, value in match.groupdict().items() if value is not None}
        year = parts["year"] if len(parts["year"]) == 4 else f"20{parts['year']}"
        separator = "_" if match["year14"] else match["sep"]
        is_year_first = (match["year"] or match["year14"]) is not None
        if is_year_first and not _may_begin(year, separator, text[: match.start()]):
            continue
        if (match["day11"] or match["day12"]) is not None and int(parts["day"]) != int(parts["month"]):
            continue
        yield _date(year, parts["month"], parts["day"]), match.end()
    for pattern, order in (
        (_NAMED_DAY_FIRST, (2, 1, 0)),
        (_NAMED_MONTH_FIRST, (2, 0, 1)),
        (_NAMED_MONTH_BETWEEN, (0, 1, 2)),
        (_NAMED_LATVIAN, (0, 2, 1)),
    ):
        for match in pattern.finditer(text):
            year, word, day = (match[group + 1] for group in order)
            month = None if word in _UNLIKELY_MONTHS else _month(word)
            if month is not None and int(day):
                yield _date(year, str(month), day), match.end()
    for match in _NAMED_SHORT_YEAR.finditer(text):
        month = None if match[3] in _UNLIKELY_MONTHS else _MONTHS.get(match[3])
        if month is not None and int(match[1]):
            year = int(match[4]) + (2000 if int(match[4]) < 69 else 1900)
            yield _date(str(year), str(month), match[1]), match.end()
