"""Names whose date has the day first, and names in which a number before a year makes another number of it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.pictures.metadata.moments import Moment, moment_of_name


@given(
    day=st.integers(1, 31),
    month=st.integers(1, 12),
    year=st.integers(1990, 2025),
    separator=st.sampled_from("-_ "),
    clock=st.sampled_from([" 10 11 12", "_10_11_12", "-10-11-12", "_10-11-12", "-10-11", ""]),
    before=st.sampled_from(["Photo ", "", "Facetune_", "Screenshot_", "scan-"]),
)
def test_the_day_first_is_a_date_only_where_it_is_clear(
    day: int, month: int, year: int, separator: str, clock: str, before: str
) -> None:
    name = f"{before}{day:02}{separator}{month:02}{separator}{year}{clock}.jpg"
    found = moment_of_name(name)
    if found is not None:
        assert day > 12 or day == month
        assert (found.start.year, found.start.month, found.start.day) == (year, month, day)
    elif separator != " ":
        assert (
            (day <= 12 and day != month)
            or (month, day) in ((2, 29), (2, 30), (2, 31))
            or day == 31
            or ((day, month) == (1, 1))
        )


@pytest.mark.parametrize(
    "name",
    ["25570709_8786444771.jpg", "19040507_9725447881.jpg", "25410401_6680566134_o.jpg", "20110605_8786a44b71_b.jpg",
     "20110605_aabbccddee.png"],
)  # fmt: skip
def test_a_number_with_a_secret_behind_it_is_no_date(name: str) -> None:
    """As sites that keep pictures name what is fetched from them."""
    assert moment_of_name(name) is None


@pytest.mark.parametrize(
    "name",
    ["20110605_101112.jpg", "20110605_101112345.jpg", "20110605_101112123456.jpg", "25540605_101112.jpg",
     "20110605_1307268671.jpg", "20110605_defaced.jpg"],
)  # fmt: skip
def test_what_else_stands_behind_a_date_leaves_it_one(name: str) -> None:
    moment = moment_of_name(name)
    assert moment is not None and str(moment.start).startswith("2011-06-05")


@pytest.mark.parametrize(
    "name",
    ["Photo 05-06-2011 10 11 12.jpg", "Photo 12-05-2011 06 07 08.jpg", "05_06_2011_10_11_12.jpg",
     "Facetune_05-06-2011-10-11-12.jpg", "1-5-2011-10-11.jpg", "05 06 2011 10 11 12.jpg",
     "vacances_2010-2011-12-24.jpg", "2015-2016-10-01.jpg", "Saison 1999_2000_10_11.jpg", "1200x2000-10-11.jpg",
     "1080 x 2000-10-11.png", "900×2000.10.11.png", "tel-0049-1911-12-13.jpg", "tel 0049 2011 12 13.jpg",
     "+49-2011-12-13.jpg", "Fax: 089 2011-12-13.png", "4711-1911-12-13.jpg"],
)  # fmt: skip
def test_no_date_is_better_than_a_false_one(name: str) -> None:
    assert moment_of_name(name) is None


@pytest.mark.parametrize(
    "name",
    ["IMG-0012-2011-05-06.jpg", "3-2011-05-06.jpg", "12.2011-05-06.jpg", "2011-2011-05-06.jpg", "2011_2011-05-06.jpg",
     "hotel-12-2011-05-06.jpg", "IMG 1 2 2011-5-6.jpg", "max2011-05-06.jpg", "Abi 2010 2011-05-06.jpg"],
)  # fmt: skip
def test_a_counter_before_a_date_is_none_of_it(name: str) -> None:
    assert moment_of_name(name) == Moment(datetime(2011, 5, 6), timedelta(days=1))


def test_the_same_number_twice_is_clear() -> None:
    assert moment_of_name("Photo 05-05-2011 10 11 12.jpg") == Moment(datetime(2011, 5, 5, 10, 11, 12))
    assert moment_of_name("Photo 25-06-2011 10 11 12.jpg") == Moment(datetime(2011, 6, 25, 10, 11, 12))
