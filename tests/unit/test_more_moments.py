"""Dates as people and programs of many countries write them: several of them, in other digits, with other words."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.pictures.metadata.moments import Moment, moment_of_name, read_moment

DAY = Moment(datetime(2011, 6, 5), timedelta(days=1))
MONTH = Moment(datetime(2011, 6, 1), timedelta(days=30))
YEAR = Moment(datetime(2011, 1, 1), timedelta(days=365))
SECOND = Moment(datetime(2011, 6, 5, 10, 11, 12))
MINUTE = Moment(datetime(2011, 6, 5, 10, 11))
EVENING = Moment(datetime(2011, 6, 5, 22, 11, 12))
UTC = Moment(datetime(2011, 6, 5, 10, 11, 12), utc=True)


@pytest.mark.parametrize(
    "text",
    ["2011-06-05 - 2011-06-07", "2011-06-05/2011-06-07", "2011-06-05 – 2011-06-07", "2011-06-05 to 2011-06-07",
     "2011:06:05 2011:06:07", "2011-06-05--2011-06-07", "2011-06-05_2011-06-07", "2011/06/05 - 2011/06/07",
     "05.06.2011 - 07.06.2011", "05.06.2011 bis 07.06.2011", "5.6.2011-7.6.2011", "20110605-20110607",
     "20110605 20110607", "2011-06-05 - 2012", "2011-06-05, 2011-06-07", "2011-06-05 - 06-07",
     "5 June 2011 - 7 June 2011", "5. Juni 2011 bis 7. Juni 2011", "2011-06-05 … 2011-06-07"],
)  # fmt: skip
def test_of_two_dates_the_first_counts_and_the_other_is_no_time(text: str) -> None:
    assert read_moment(text) == DAY


@pytest.mark.parametrize(
    "name",
    ["2011-06-05 - 2011-06-07.jpg", "05.06.2011 - 07.06.2011.jpg", "20110605-20110607.jpg", "2011-06-05_2011-06-07.jpg",
     "Rom 5.6.2011-7.6.2011.jpg", "Rom 2011-06-05 bis 2011-06-07 (3).jpg"],
)  # fmt: skip
def test_of_two_dates_in_a_name_the_first_counts(name: str) -> None:
    assert moment_of_name(name) == DAY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2011:06:05:10:11:12", SECOND),
        ("2011-06-05:10:11:12", SECOND),
        ("2011:06:0510:11:12", SECOND),
        ("2011/06/0510:11", MINUTE),
        ('"2011:06:05 10:11:12"', SECOND),
        ("'2011-06-05'", DAY),
        ("„5. Juni 2011“", DAY),
        ("«2011-06-05T10:11:12Z»", SECOND),
        ("1307268672123456", UTC),
        ("1307268672123456789", UTC),
        ("/Date(1307268672123)/", UTC),
        (r"\/Date(1307268672123+0200)\/", UTC),
        ("Jun-05-2011", DAY),
        ("05-Jun-2011 10:11:12", SECOND),
        ("June-5-2011", DAY),
        ("2011-06-XX", MONTH),
        ("2011-06-uu", MONTH),
        ("2011-XX-XX", YEAR),
        ("c. 2011", YEAR),
        ("ca. 2011", YEAR),
        ("circa 2011", YEAR),
        ("um 2011", YEAR),
        ("2011?", YEAR),
        ("2011 (?)", YEAR),
        ("2011-06~", MONTH),
        ("平成23年6月5日", DAY),
        ("平成23年06月05日 10:11", MINUTE),
        ("㍻23年6月5日", DAY),
        ("H23.06.05", DAY),
        ("H23/6/5 10:11:12", SECOND),
        ("昭和60年6月5日", Moment(datetime(1985, 6, 5), timedelta(days=1))),
        ("S60.6.5", Moment(datetime(1985, 6, 5), timedelta(days=1))),
        ("令和元年6月5日", Moment(datetime(2019, 6, 5), timedelta(days=1))),
        ("大正10年6月5日", Moment(datetime(1921, 6, 5), timedelta(days=1))),
        ("民國100年6月5日", DAY),
    ],
)
def test_more_spellings(text: str, expected: Moment) -> None:
    found = read_moment(text)
    assert found is not None
    assert Moment(found.start.replace(microsecond=0), found.span, found.utc) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # digits of others
        ("لقطة شاشة ٢٠١١-٠٦-٠٥ في ١٠.١١.١٢.png", SECOND),
        ("لقطة شاشة ٢٠١١-٠٦-٠٥ في ١٠.١١.١٢ م.png", EVENING),
        ("२०११-०६-०५.jpg", DAY),
        ("IMG_۲۰۱۱۰۶۰۵_۱۰۱۱۱۲.jpg", SECOND),
        ("২০১১-০৬-০৫ ১০.১১.১২.png", SECOND),
        ("๒๕๕๔-๐๖-๐๕.jpg", DAY),
        ("\u200e2011\u200e-06\u200e-05 10.11.12.png", SECOND),
        # times
        ("20110605_1011_1.jpg", MINUTE),
        ("MOV_20110605_1011.mp4", MINUTE),
        ("2011-06-05 1011.jpg", MINUTE),
        ("2011-06-05-1011.jpg", MINUTE),
        ("2011-06-05_1011 (2).png", MINUTE),
        ("flameshot_2011-06-05_10-11.png", MINUTE),
        ("Spectacle 2011-06-05 10-11.png", MINUTE),
        ("shot 20110605-1011.png", MINUTE),
        ("Screenshot_2011-06-05_at_10-11-12.png", SECOND),
        ("Bildschirmfoto_2011-06-05_um_10.11.12.png", SECOND),
        ("2011년 6월 5일 오후 10시 11분.jpg", Moment(datetime(2011, 6, 5, 22, 11))),
        ("2011년 6월 5일 오후 10시 11분 12초.jpg", EVENING),
        ("2011年6月5日 10時11分.jpg", MINUTE),
        # seconds since 1970
        ("PhotoGrid_1307268672.png", UTC),
        ("PhotoGrid_1307268672123.png", UTC),
        ("Messenger_creation_1307268672.jpg", UTC),
        ("beauty_1307268672123.jpg", UTC),
        ("some_editor-1307268672123.jpg", UTC),
        ("Meitu_1307268672123.jpg", UTC),
        # days
        ("Camera360_2011_6_5_10_11_12.jpg", SECOND),
        ("C360_2011_6_5_9_1_2.jpg", Moment(datetime(2011, 6, 5, 9, 1, 2))),
        ("05-Jun-11.jpg", DAY),
        ("5Jun11.jpg", DAY),
        ("Scan_05_JUN_11.jpg", DAY),
        ("平成23年6月5日.jpg", DAY),
        ("運動会 平成23年6月5日 (3).jpg", DAY),
        ("昭和60年6月5日.jpg", Moment(datetime(1985, 6, 5), timedelta(days=1))),
    ],
)
def test_more_names(name: str, expected: Moment) -> None:
    found = moment_of_name(name)
    assert found is not None
    assert Moment(found.start.replace(microsecond=0), found.span, found.utc) == expected


@pytest.mark.parametrize(
    "name",
    ["shutterstock_1307268672.jpg", "istockphoto-1307268672-612x612.jpg", "AdobeStock_1307268672.jpeg",
     "ean_1307268672123.jpg", "tel_1307268672123.jpg", "order-1307268672123.png", "sku_1307268672123.jpg",
     "H23.6.5.jpg", "Saison 1999_2000_1_1_2_3.jpg", "5mm11.jpg", "12-set-11.jpg", "5 mil 2011.jpg",
     "product_13072686721234.jpg"],
)  # fmt: skip
def test_names_that_only_look_like_dates(name: str) -> None:
    assert moment_of_name(name) is None


@pytest.mark.parametrize(
    "name",
    ["2011-06-05_0001.jpg", "20110605_0012.jpg", "2011-06-05 1080p.jpg", "2011-06-05_1280_720.jpg",
     "2011-06-05_1920x1080.png", "2011-06-05 - 12.jpg", "2011-06-05_9999.jpg", "2011-06-05 12 Uhr.jpg"],
)  # fmt: skip
def test_counters_and_sizes_are_no_times(name: str) -> None:
    assert moment_of_name(name) == DAY


LOCAL = [
    "5 Ιουνίου 2011", "5 ΙΟΥΝΙΟΥ 2011", "5 Ιουνιου 2011", "5 ביוני 2011", "5 יוני 2011", "5 يونيو 2011",
    "5 حزيران 2011",
    "5 มิถุนายน 2554", "5 มิ.ย. 2554", "5 tháng 6, 2011", "ngày 5 tháng 6 năm 2011", "5 thg 6, 2011", "5 iunie 2011",
    "5 червня 2011", "5 червня 2011 р.", "5 juny 2011", "5 de juny de 2011", "5. lipnja 2011", "5. junija 2011",
    "5 юни 2011", "5. júní 2011", "2011 m. birželio 5 d.", "2011. gada 5. jūnijs", "5. juuni 2011",
    "2011(e)ko ekainaren 5(a)", "5 чэрвеня 2011", "5 јуни 2011", "5. јун 2011", "5. јуна 2011", "5. juna 2011",
    "5 հունիսի, 2011", "5 ივნისი, 2011", "5 जून 2011", "৫ জুন ২০১১", "5 ஜூன் 2011", "5 جون 2011", "5 ژوئن 2011",
    "5 İyun 2011", "5 Mehefin 2011", "5 Qershor 2011", "5 Ġunju 2011", "5 xuño 2011", "5 Meitheamh 2011",
    "5 junie 2011",
    "5 Hunyo 2011", "5. June 2011", "5 czerwca 2011", "5. června 2011", "5. jún 2011", "2011. június 5.",
]  # fmt: skip


@pytest.mark.parametrize("text", LOCAL)
def test_months_of_many_languages(text: str) -> None:
    assert read_moment(text) == DAY
    name = text.replace("/", " ")
    if not text.endswith(("d.", "p.")):
        assert moment_of_name(f"{name}.jpg") == DAY


@pytest.mark.parametrize(
    ("text", "month"),
    [("5. listopada 2011", 10), ("5 listopada 2011", 11), ("5. listopadu 2011", 11), ("5 d’agost de 2011", 8),
     ("5 d'octubre de 2011", 10), ("5 كانون الثاني 2011", 1), ("5 تشرين الأول 2011", 10), ("5 Meán Fómhair 2011", 9),
     ("5 fevrier 2011", 2), ("5 aout 2011", 8), ("5 decembre 2011", 12), ("5. Marz 2011", 3), ("5 thang 12, 2011", 12),
     ("5. septembra 2011", 9), ("5. marca 2011", 3), ("5. kolovoza 2011", 8)],
)  # fmt: skip
def test_months_of_two_words_without_accents_and_of_two_languages(text: str, month: int) -> None:
    expected = Moment(datetime(2011, month, 5), timedelta(days=1))
    assert read_moment(text) == expected
    assert moment_of_name(f"Oma, {text}.jpg") == expected


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    read_moment(text)
    moment_of_name(text)
    moment_of_name(f"2011-06-05{text}")
    read_moment(f"5 {text} 2011")


def test_long_texts_take_little_time() -> None:
    began = time.process_time()
    for part in (
        "5 มิ.ย. ",
        "tháng 6",
        "2011. gada ",
        "2011_6_5_",
        "平成",
        "a_",
        "5.6.2011 - ",
        "a-1307268672",
        "كانون ",
    ):
        moment_of_name(part * 1000)
        read_moment(part * 1000)
    assert time.process_time() - began < 1
