"""Names that programs and people give, and Google Takeout's JSON under names that are not quite the picture's."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.pictures.metadata.moments import Moment, moment_of_name
from clipsearch.pictures.metadata.sidecars import said_beside
from tests.unit.test_metadata import encoded, metadata_of

DAY = Moment(datetime(2011, 6, 5), timedelta(days=1))
SECOND = Moment(datetime(2011, 6, 5, 10, 11, 12))
UTC = Moment(datetime(2011, 6, 5, 10, 11, 12), utc=True)
MINUTE = Moment(datetime(2011, 6, 5, 10, 11))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Telegram Desktop
        ("photo_1@05-06-2011_10-11-12.jpg", SECOND),
        ("photo_123@05-06-2011_10-11-12_thumb.jpg", SECOND),
        ("file_7@05-06-2011_10-11-12 (2).png", SECOND),
        # Dropbox
        ("Photo 05.06.11 10 11 12.jpg", SECOND),
        ("Foto 05.06.11 10 11 12 (1).jpg", SECOND),
        ("Video 05.06.11 10.11.12.jpg", SECOND),
        ("Photo 05.06.2011 10 11 12.jpg", SECOND),
        # PicsArt, WeChat, others
        ("Picsart_11-06-05_10-11-12-345.jpg", Moment(datetime(2011, 6, 5, 10, 11, 12, 345000))),
        ("PicsArt_11-06-05_10-11-12.png", SECOND),
        ("microMsg.1307268672000.jpg", UTC),
        ("image_1307268672000.png", UTC),
        ("photo-1307268672000.jpeg", UTC),
        # days and months of one digit
        ("Zrzut ekranu 2011-06-5 o 10.11.12.png", SECOND),
        ("Zrzut ekranu 2011-6-05 o 10.11.png", MINUTE),
        ("2011-6-5.jpg", DAY),
        ("2011.6.5 10.11.12.jpg", SECOND),
        ("Schermafbeelding 2011-06-5 om 10.11.12.png", SECOND),
        # the other order, where it is clear
        ("25-06-2011 10.11.12.jpg", Moment(datetime(2011, 6, 25, 10, 11, 12))),
        ("06-25-2011_10-11-12.jpg", Moment(datetime(2011, 6, 25, 10, 11, 12))),
        ("25_06_2011.jpg", Moment(datetime(2011, 6, 25), timedelta(days=1))),
        # months by their names
        ("5 juin 2011.jpg", DAY),
        ("June 5, 2011.jpg", DAY),
        ("June 5th, 2011 at 10.11.12 AM.jpg", SECOND),
        ("Jun 5 2011.jpg", DAY),
        ("Sunset, 5. Juni 2011.jpg", DAY),
        ("5 de junio de 2011.jpg", DAY),
        ("5 giugno 2011 10-11-12.jpg", SECOND),
        ("5 de junho de 2011 (2).jpg", DAY),
        ("zondag 5 juni 2011.jpg", DAY),
        ("05JUN2011.jpg", DAY),
        ("05-Jun-2011_10-11-12.jpg", SECOND),
        ("2011-Jun-05.jpg", DAY),
        ("2011 June 5.jpg", DAY),
        ("5th of June 2011.jpg", DAY),
        ("Oma_5_Juni_2011_003.jpg", DAY),
    ],
)
def test_more_dates_in_names(name: str, expected: Moment) -> None:
    assert moment_of_name(name) == expected


@pytest.mark.parametrize(
    "name",
    ["photo_1@05-06.jpg", "photo_1@45-06-2011_10-11-12.jpg", "IMG_05-06-2011.jpg", "17.03.09 10.11.12.jpg",
     "Picsart_11-16-05_10-11-12.jpg", "Photo 05.16.11 10 11 12.jpg", "version 2011.1.2.3.jpg", "Mark 5 2011.jpg",
     "level 5 out 2011.jpg", "99 June 2011.jpg", "0 June 2011.jpg", "31 June 2011.jpg", "5 June 20111.jpg",
     "June 5, 1970x.jpg", "microMsg.13072686720001.jpg", "June.jpg", "5 June.jpg", "4006381333931.jpg",
     "x5 Junex 2011.jpg"],
)  # fmt: skip
def test_more_names_without_a_date(name: str) -> None:
    found = moment_of_name(name)
    assert found is None or found.start.year == 1970


MONTHS = {
    "English": "January February March April May June July August September October November December",
    "German": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "French": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "Spanish": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "Italian": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "Portuguese": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    "Dutch": "januari februari maart april mei juni juli augustus september oktober november december",
}


@given(
    language=st.sampled_from(sorted(MONTHS)),
    day=st.datetimes(datetime(1900, 1, 2), datetime(2026, 1, 1)),
    form=st.sampled_from(
        ["{d} {m} {y}", "{m} {d}, {y}", "{d}. {m} {y}", "{d} de {m} de {y}", "{y} {m} {d}", "{d}-{m}-{y}"]
    ),
    around=st.sampled_from(["{}.jpg", "Oma, {}.jpg", "{} (3).png", "IMG {} party.jpeg"]),
    is_upper=st.booleans(),
)
def test_months_in_seven_languages(language: str, day: datetime, form: str, around: str, is_upper: bool) -> None:
    month = MONTHS[language].split()[day.month - 1]
    name = around.format(form.format(d=day.day, m=month.upper() if is_upper else month, y=day.year))
    found = moment_of_name(name)
    if (day.year, day.month, day.day) in {(1904, 1, 1), (1903, 12, 31), (1969, 12, 31), (1970, 1, 1), (1979, 11, 30),
                                          (1979, 12, 31), (1980, 1, 1)}:  # fmt: skip
        return
    assert found == Moment(datetime(day.year, day.month, day.day), timedelta(days=1))


def test_long_names_take_little_time() -> None:
    began = time.process_time()
    for part in ("1 ", "juin ", "5 juin ", "2011-", "a" * 50, "5. de ", "@05-06-2011", "٣", "1."):
        moment_of_name(part * 1000)
    assert time.process_time() - began < 1


# --- Google Takeout --------------------------------------------------------------------------------------------


def takeout(path: Path, title: str | None, **taken: object) -> None:
    body: dict[str, object] = {"photoTakenTime": taken or {"timestamp": "1307268672"}}
    path.write_text(json.dumps(body if title is None else body | {"title": title}), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "beside", "title"),
    [
        ("s5.jpg", "s5.json", "s5.jpg"),
        ("s5.jpg", "s5.json", None),
        ("S5.JPG", "S5.json", "S5.JPG"),
        ("s5(2).jpg", "s5(2).json", "s5.jpg"),
        ("s5-edited.jpg", "s5.json", "s5.jpg"),
        ("s10.jpg", "s10.heic.supplemental-metadata.json", "s10.heic"),
        ("s10.jpg", "s10.HEIC.supplemental-meta.json", "s10.HEIC"),
        ("s10.jpg", "s10.HEIC.json", "s10.HEIC"),
        ("s10.jpeg", "s10.jpg.json", "s10.jpg"),
        ("s10.webp", "s10.png.supplemental-metadata.json", "s10.png"),
        ("s10(1).jpg", "s10.heic.supplemental-metadata(1).json", "s10.heic"),
        ("s10.heic", "s10.mov.json", "s10.mov"),
        ("s10.jpg", "s10.json", "s10.heic"),
    ],
)
def test_takeout_under_another_ending(tmp_path: Path, name: str, beside: str, title: str | None) -> None:
    takeout(tmp_path / beside, title)
    found = metadata_of(tmp_path / name, encoded())
    assert (found.taken_at, found.date_source) == ("2011-06-05T10:11:12", "takeout:photoTakenTime")


@pytest.mark.parametrize(
    ("name", "beside", "title"),
    [
        ("s5.jpg", "s5.json", "s50.jpg"),
        ("s5.jpg", "s5.json", "other.jpg"),
        ("s5(2).jpg", "s5.json", "s5.jpg"),
        ("s5.jpg", "s5(2).json", "s5.jpg"),
        ("s50.jpg", "s5.heic.json", "s5.heic"),
        ("s5.jpg", "s5.heic(1).json", "s5.heic"),
    ],
)
def test_takeout_of_another_picture(tmp_path: Path, name: str, beside: str, title: str) -> None:
    takeout(tmp_path / beside, title)
    assert metadata_of(tmp_path / name, encoded()).taken_at is None


def test_another_picture_that_is_there_keeps_its_json(tmp_path: Path) -> None:
    takeout(tmp_path / "s5.png.json", "s5.png")
    (tmp_path / "s5.png").write_bytes(encoded("PNG"))
    assert metadata_of(tmp_path / "s5.jpg", encoded()).taken_at is None
    other = tmp_path / "other"  # a folder that changes is listed again only now and then
    other.mkdir()
    takeout(other / "s6.heic.json", "s6.heic")
    (other / "s6.heic").write_bytes(b"")
    said_beside(str(other / "s6.jpg"))
    assert metadata_of(other / "s6.jpg", encoded()).taken_at is not None


def test_the_own_json_comes_first(tmp_path: Path) -> None:
    takeout(tmp_path / "a.jpg.json", "a.jpg")
    takeout(tmp_path / "a.json", "a.jpg", timestamp="1000000000")
    takeout(tmp_path / "a.heic.json", "a.heic", timestamp="1000000000")
    assert metadata_of(tmp_path / "a.jpg", encoded()).taken_at == "2011-06-05T10:11:12"


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        ("Jun 5, 2011, 10:11:12\u202fAM UTC", "2011-06-05T10:11:12"),
        ("5 Jun 2011, 10:11:12 UTC", "2011-06-05T10:11:12"),
        ("5 juin 2011, 10:11:12 UTC", "2011-06-05T10:11:12"),
        ("05.06.2011, 10:11:12 UTC", "2011-06-05T10:11:12"),
        ("2011年6月5日 10:11:12 UTC", "2011-06-05T10:11:12"),
        ("5 de jun. de 2011, 10:11:12 UTC", "2011-06-05T10:11:12"),
        ("soon", None),
        ("", None),
        (7, None),
        ("Jan 1, 1970, 12:00:00 AM UTC", None),
    ],
)
@pytest.mark.parametrize("timestamp", [None, "", "x"])
def test_takeout_with_nothing_but_words(
    tmp_path: Path, formatted: object, expected: str | None, timestamp: str | None
) -> None:
    taken = {"formatted": formatted} | ({} if timestamp is None else {"timestamp": timestamp})
    takeout(tmp_path / "a.jpg.json", "a.jpg", **taken)
    assert metadata_of(tmp_path / "a.jpg", encoded()).taken_at == expected


# --- ExifTool's JSON ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg.json", "a.json", "A.JPG.json"])
@pytest.mark.parametrize("group", ["", "EXIF:", "XMP:"])
@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        ({"GPSLatitude": "48 deg 30' 0.00\" N"}, {"GPSLongitude": "11 deg 15' 0.00\" W"}),
        ({"GPSLatitude": 48.5}, {"GPSLongitude": -11.25}),
        ({"GPSLatitude": 48.5, "GPSLatitudeRef": "N"}, {"GPSLongitude": 11.25, "GPSLongitudeRef": "W"}),
        ({"GPSLatitude": "48.5", "GPSLatitudeRef": "North"}, {"GPSLongitude": "11.25", "GPSLongitudeRef": "West"}),
    ],
)
def test_exiftools_json(
    tmp_path: Path, name: str, group: str, latitude: dict[str, object], longitude: dict[str, object]
) -> None:
    said = {"DateTimeOriginal": "2011:06:05 10:11:12", "Make": "Apple", "Model": "iPhone 4", **latitude, **longitude}
    tags = {"SourceFile": "/export/a.jpg", **{f"{group}{key}": value for key, value in said.items()}}
    (tmp_path / name).write_text(json.dumps([tags]))
    found = metadata_of(tmp_path / "a.jpg", encoded())
    assert (found.taken_at, found.date_source) == ("2011-06-05T10:11:12", "sidecar:DateTimeOriginal")
    assert (found.latitude, found.longitude, found.camera) == (48.5, -11.25, "Apple iPhone 4")


@pytest.mark.parametrize(
    "content", ["[]", "[1]", "[{}]", '[{"DateTimeOriginal": "2011:06:05 10:11:12"}]', '[{"SourceFile": "other.jpg"}]',
     '[{"SourceFile": "b.jpg", "DateTimeOriginal": "2011:06:05 10:11:12"}]', '[{"SourceFile": null, "CreateDate": {}}]']
)  # fmt: skip
def test_json_of_another_picture_or_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert metadata_of(tmp_path / "a.jpg", encoded()).taken_at is None
