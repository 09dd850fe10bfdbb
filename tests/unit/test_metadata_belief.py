"""Clocks that were never set, fields that were never filled in, satellites that count anew: none beats a good date."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clipsearch.pictures.metadata.moments import Moment, choose, is_doubtful, is_possible, read_moment
from tests.unit.test_metadata import encoded, exif_bytes, metadata_of, xmp

GOOD = Moment(datetime(2011, 6, 5, 10, 11, 12))
DAY = timedelta(days=1)


def written(text: str) -> Moment:
    moment = read_moment(text)
    assert moment is not None
    return moment


@pytest.mark.parametrize(
    "text",
    [
        # never filled in
        "2000:00:00 00:00:00", "2000-00-00T00:00:00Z", "20000000 000000", "2000:01:00 00:00:00", "1980:00:00 00:00:00",
        "1970:00:00 00:00:00", "2005:00:00 00:00:00", "1904:00:00 0:00:00",
        # the first second of a clock
        "1970:01:01 00:59:59", "1980:01:01 00:20:10", "1990:01:01 00:00:00", "2000:01:01 00:00:00",
        "2001:01:01 00:00:00", "2002:01:01 00:00:00", "2003-01-01T00:00:00", "2004:01:01 00:00:00",
        "2005:01:01 00:00:00", "2010:01:01 00:00:00", "2014:01:01 00:00:00", "2015:01:01 00:00:00.5",
        "1980:01:06 00:00:00", "1980:01:06 00:00:31",
        # the same, in other time zones
        "1903:12:31 16:00:00", "1903-12-31", "1969-12-31", "1969:12:31 19:00:07", "1979:12:31 18:30:00", "1979-12-31",
        "1999:12:31 16:00:00", "1999:12:31 19:00:00", "2000:12:31 16:00:00", "2000:01:01 01:00:00",
        "2000:01:01 08:00:00", "2001:01:01 09:00:00",
    ],
)  # fmt: skip
def test_known_placeholders_are_not_believed_even_alone(text: str) -> None:
    assert not is_possible(written(text))
    assert choose([("exif:DateTimeOriginal", written(text))]) is None
    assert choose([("exif:DateTimeOriginal", written(text)), ("png:tIME", GOOD)]) == ("png:tIME", GOOD)


@pytest.mark.parametrize(
    "text",
    [
        "2012:00:00 00:00:00", "2017:03:00 00:00:00", "2017-03-00 00:00", "20110000000000",
        "2000:01:01 00:00:07", "1990:01:01 00:41:00", "2007:01:01 00:00:00", "2015:01:01 00:12:59",
        "2019:01:01 00:59:59", "1985:01:01 00:00:20", "2023:01:01 00:01:00", "2005-01-01", "2010-01-01",
        "1999:12:31 16:00:12", "2000:12:31 19:04:00", "1980:01:06 08:00:00", "1980:01:05 16:00:00", "1980-01-06",
    ],
)  # fmt: skip
def test_what_is_doubtful_beats_nothing_and_is_taken_alone(text: str) -> None:
    moment = written(text)
    assert is_doubtful(moment)
    for other in (GOOD, Moment(datetime(2011, 6, 5), DAY), Moment(datetime(2011, 1, 1), timedelta(days=365))):
        assert choose([("exif:DateTimeOriginal", moment), ("png:tIME", other)]) == ("png:tIME", other)
    assert choose([("exif:DateTimeOriginal", moment)]) == ("exif:DateTimeOriginal", moment)


@pytest.mark.parametrize(
    "text",
    ["2000:01:01 01:00:01", "1999:12:31 23:59:30", "2000:01:01 12:00:00", "1999:12:31 12:00:00", "2004:12:31 16:00:00",
     "2012:02:01 00:00:00", "2011:06:05 00:00:00", "1893:00:00 00:00:00", "1985:01:01 00:00:00", "2006-01-01",
     "2011-06", "2011", "1965:07:00 00:00:00", "1981:01:06 00:00:00", "2013:01:01 01:00:00"],
)  # fmt: skip
def test_dates_that_are_only_like_placeholders(text: str) -> None:
    moment = written(text)
    assert is_possible(moment) and not is_doubtful(moment)
    assert choose([("a", moment), ("b", Moment(datetime(2013, 8, 9, 1, 2, 3)))]) == ("a", moment)


def test_a_new_year_that_another_source_confirms_is_one() -> None:
    new_year = Moment(datetime(2012, 1, 1, 0, 12))
    for other in (
        Moment(datetime(2012, 1, 1), DAY),
        Moment(datetime(2011, 12, 31, 23, 12), utc=True),
        Moment(datetime(2012, 1, 1, 14)),
    ):
        assert choose([("a", new_year), ("b", other), ("c", GOOD)]) == ("a", new_year)
    assert choose([("a", new_year), ("b", GOOD), ("c", Moment(datetime(2012, 1, 1), DAY))]) == ("b", GOOD)


def test_a_server_that_took_the_date_from_the_camera_confirms_nothing() -> None:
    reset, of_server = Moment(datetime(2005, 1, 1, 0, 3)), Moment(datetime(2004, 12, 31, 23, 3), utc=True)
    assert choose([("a", reset), ("takeout:photoTakenTime", of_server), ("name", GOOD)]) == ("name", GOOD)
    assert choose([("a", reset), ("takeout:photoTakenTime", of_server)]) == ("a", reset)
    assert choose([("takeout:photoTakenTime", of_server), ("name", GOOD)]) == ("takeout:photoTakenTime", of_server)


@given(
    year=st.integers(1990, 2025),
    seconds=st.integers(0, 3599),
    good=st.datetimes(datetime(1991, 1, 3), datetime(2026, 1, 1)),
)
def test_the_first_hour_of_no_year_beats_another_date(year: int, seconds: int, good: datetime) -> None:
    reset = datetime(year, 1, 1) + timedelta(seconds=seconds)
    moment = Moment(good)
    assume(abs(good - reset) > 2 * DAY and is_possible(moment) and not is_doubtful(moment))
    assert choose([("exif:DateTimeOriginal", Moment(reset)), ("png:ModifyDate", moment)]) == ("png:ModifyDate", moment)


@given(
    good=st.datetimes(datetime(2009, 9, 1), datetime(2026, 1, 1)),
    off=st.timedeltas(timedelta(days=-6), timedelta(days=6)),
    source=st.sampled_from(["exif:GPSDateStamp", "xmp:GPSTimeStamp", "sidecar:GPSTimeStamp"]),
    other=st.sampled_from(["name", "exif:DateTime", "png:ModifyDate", "takeout:photoTakenTime"]),
    is_day=st.booleans(),
)
def test_satellites_that_count_their_weeks_anew(
    good: datetime, off: timedelta, source: str, other: str, is_day: bool
) -> None:
    moment = Moment(good)
    assume(is_possible(moment) and not is_doubtful(moment))
    earlier = good - timedelta(weeks=1024) + off
    said = Moment(datetime(earlier.year, earlier.month, earlier.day), DAY) if is_day else Moment(earlier, utc=True)
    assert choose([(source, said), (other, moment)]) == (other, moment)
    near = Moment(earlier + timedelta(days=40), utc=True)
    assume(is_possible(near) and not is_doubtful(near) and near.start.date() != datetime(1999, 8, 22).date())
    assert choose([(source, near), (other, moment)]) == (source, near)


@pytest.mark.parametrize(
    "gps",
    [
        {29: "1980:01:06"},
        {29: "1980:01:06", 7: (0.0, 0.0, 0.0)},
        {29: "1980:01:05", 7: (23.0, 59.0, 42.0)},
        {29: "1980:01:06", 7: (14.0, 3.0, 9.0)},
        {29: "1999:08:22", 7: (0.0, 0.0, 13.0)},
        {29: "1970:01:01", 7: (0.0, 0.0, 0.0)},
        {29: "2000:00:00", 7: (0.0, 0.0, 0.0)},
        {29: "0000:00:00", 7: (0.0, 0.0, 0.0)},
        {29: "2011", 7: (10.0, 11.0, 12.0)},
    ],
)
def test_satellites_before_a_fix(tmp_path: Path, gps: dict[int, Any]) -> None:
    assert metadata_of(tmp_path / "a.jpg", encoded(exif=exif_bytes({}, None, gps))).taken_at is None
    found = metadata_of(tmp_path / "IMG-20110605-WA0001.jpg", encoded(exif=exif_bytes({}, None, gps)))
    assert (found.taken_at, found.date_source) == ("2011-06-05T00:00:00", "name")
    found = metadata_of(tmp_path / "b.jpg", encoded(exif=exif_bytes({0x0132: "2011:06:05 10:11:12"}, None, gps)))
    assert (found.taken_at, found.date_source) == ("2011-06-05T10:11:12", "exif:DateTime")


def test_a_week_that_began_anew_in_a_file(tmp_path: Path) -> None:
    gps = {29: "1997:10:20", 7: (8.0, 11.0, 12.0)}
    found = metadata_of(tmp_path / "20170605_101112.jpg", encoded(exif=exif_bytes({}, None, gps)))
    assert (found.taken_at, found.date_source) == ("2017-06-05T10:11:12", "name")


def test_a_placeholder_in_xmp_leaves_the_name(tmp_path: Path) -> None:
    packet = xmp(" exif:DateTimeOriginal='2000-00-00T00:00:00' xmp:CreateDate='2005-01-01T00:00:14'>")
    found = metadata_of(tmp_path / "IMG_20110605_101112.png", encoded("WEBP", xmp=packet))
    assert (found.taken_at, found.date_source) == ("2011-06-05T10:11:12", "name")


def test_the_new_year_of_a_messenger_is_a_day_like_others(tmp_path: Path) -> None:
    packet = xmp(" xmp:ModifyDate='2016-03-04T05:06:07'>")
    found = metadata_of(tmp_path / "IMG-20150101-WA0007.webp", encoded("WEBP", xmp=packet))
    assert (found.taken_at, found.date_source) == ("2015-01-01T00:00:00", "name")
