"""When, where and with what: every way to say it, whom to believe, and that nothing of it can cost a picture."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsearch.pictures.images import PictureFile, read_picture
from clipsearch.pictures.metadata import SOURCES, Embedded, describe, describe_again, read_embedded
from clipsearch.pictures.metadata.iptc import iptc_in_resources, said_in_iptc
from clipsearch.pictures.metadata.moments import Moment, choose, is_doubtful, is_possible, moment_of_name, read_moment
from clipsearch.pictures.metadata.sidecars import said_beside
from clipsearch.pictures.metadata.statements import camera_of, degrees_of, text_of, written_degrees
from clipsearch.pictures.metadata.xmp import said_in_xmp
from clipsearch.records import PictureMetadata, Preprocessing
from tests.support.breadth import tries

SQUASH = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize_mode="squash")
EXAMPLES = tries("CLIPSEARCH_EXAMPLES", 20, 60)
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


def encoded(kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def metadata_of(path: Path, content: bytes) -> PictureMetadata:
    """What decoding says of a picture, which is what reading its metadata alone says."""
    path.write_bytes(content)
    metadata = read_picture(path, SQUASH).metadata
    with PictureFile(path) as file:
        assert file.describe(SQUASH) == metadata
    return metadata


def xmp(properties: str, namespaces: str = "") -> bytes:
    return (
        "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about='' "
        "xmlns:exif='http://ns.adobe.com/exif/1.0/' xmlns:xmp='http://ns.adobe.com/xap/1.0/' "
        "xmlns:photoshop='http://ns.adobe.com/photoshop/1.0/' xmlns:tiff='http://ns.adobe.com/tiff/1.0/' "
        f"xmlns:dc='http://purl.org/dc/elements/1.1/' {namespaces}{properties}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def exif_bytes(
    fields: dict[int, Any], details: dict[int, Any] | None = None, gps: dict[int, Any] | None = None
) -> bytes:
    exif = Image.Exif()
    for tag, value in fields.items():
        exif[tag] = value
    exif.get_ifd(0x8769).update(details or {})
    exif.get_ifd(0x8825).update(gps or {})
    return exif.tobytes()


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_with(*segments: bytes) -> bytes:
    content = encoded()
    return content[:2] + b"".join(segments) + content[2:]


def chunk(name: bytes, body: bytes, *, whole: bool = True) -> bytes:
    crc = zlib.crc32(name + body) ^ (not whole)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def png_with(*early: bytes, late: bytes = b"") -> bytes:
    content = encoded("PNG")
    end = content.rindex(b"IEND") - 4
    return content[:33] + b"".join(early) + content[33:end] + late + content[end:]


# --- spellings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2017-03-09T21:04:33.120+05:30",
        "2017-03-09 21:04:33 UTC",
        "2017:03:09 21:04:33-11:00",
        "20170309T210433Z",
        "20170309 210433",
        "2017.03.09 21.04.33",
        "2017_03_09 21:04:33",
        "  2017:03:09   21:04:33  ",
        "\0 2017:03:09 21:04:33\0\0\0",
        "2017:03:09 21:04:33\0left over",
        "2017:3:9 21:4:33",
        "2017: 3: 9 21: 4:33",
        "2017:03:09 09:04:33 PM",
        "09.03.2017 21:04:33",
        "9.3.2017, 21:04:33",
        "2017年3月9日 21时04分33秒",
        "2017年03月09日 下午9:04:33",
        "2017. 3. 9. 오후 9:04:33",
        "٢٠١٧:٠٣:٠٩ ٢١:٠٤:٣٣",
        "２０１７：０３：０９ ２１：０４：３３",
        "2560:03:09 21:04:33",
        "Thu, 09 Mar 2017 21:04:33 +0100",
        "Thu Mar  9 21:04:33 2017",
        "Thu Mar 9 21:04:33 PST 2017",
        "09-MAR-2017 21:04:33",
        "9. März 2017 21:04:33",
        "jeudi 9 mars 2017 21:04:33",
        "9 de marzo de 2017, 21:04:33",
        "9 марта 2017 21:04:33",
        "2017‐03‐09 21:04:33",
        "2017–03–09T21:04:33",
        "2017−03−09 21:04:33",
        "09-Mar-17 21:04:33",
        "9. maaliskuuta 2017 21.04.33",
        "9.3.2017 klo 21.04.33",
        "2017. március 9. 21:04:33",
        "D:20170309210433+02'00'",
        "2017 03 09 21 04 33",
        "2017:03:09 21 04 33",
        "March 9, 2017 at 9:04:33 PM GMT+2",
        "Mar 9, 2017, 9:04:33 PM UTC-7",
        "2017-03-09 at 9.04.33 PM",
        "2017-03-09 um 21.04.33",
        "2017-068T21:04:33",
        "2017068T210433Z",
        "2017-W10-4T21:04:33",
        "9.3.2017 ÖS 9:04:33",
        "9 Mart 2017 ÖS 9:04:33",
        "2017-03-09 晚上9:04:33",
        "2017-03-09 傍晚 9:04:33",
        "2017-03-09 9:04:33 ب.ظ.",
        "2017-03-09 अपराह्न 9:04:33",
        "9.03.2017 9:04:33 сл. об.",
        "2017-03-09 9:04:33 пп",
        "2017-03-09 9:04:33 אחה״צ",
        "9.3.2017 9:04:33 odp.",
        "2017-03-09 lúc 9:04:33 CH",
        "2017-03-09 pada 9.04.33 PTG",
        "9 Mart 2017 9:04:33 ÖS",
        "09.03.2017 9:04:33 μ.μ.",
        "2017-03-09 9:04:33 م",
    ],
)
def test_spellings_of_one_moment(text: str) -> None:
    found = read_moment(text)
    assert found is not None and not found.span and not found.utc
    assert found.start.replace(microsecond=0) == datetime(2017, 3, 9, 21, 4, 33)


@pytest.mark.parametrize(
    ("text", "start", "days"),
    [
        ("2017:03:09", datetime(2017, 3, 9), 1),
        ("2017-03-09-05:00", datetime(2017, 3, 9), 1),
        ("2017:03:09   :  :  ", datetime(2017, 3, 9), 1),
        ("2017:03:09 25:61:61", datetime(2017, 3, 9), 1),
        ("2017-03", datetime(2017, 3, 1), 31),
        ("2017:03:00 00:00:00", datetime(2017, 3, 1), 31),
        ("2017:03:     :  :  ", datetime(2017, 3, 1), 31),
        ("20170300", datetime(2017, 3, 1), 31),
        ("March 2017", datetime(2017, 3, 1), 31),
        ("1893", datetime(1893, 1, 1), 365),
        ("18930000", datetime(1893, 1, 1), 365),
        ("04/05/2017", datetime(2017, 1, 1), 365),  # in April or in May
        ("31/05/2017", datetime(2017, 5, 31), 1),
        ("05/31/2017", datetime(2017, 5, 31), 1),
    ],
)
def test_parts_of_a_date(text: str, start: datetime, days: int) -> None:
    assert read_moment(text) == Moment(start, timedelta(days=days))


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("2017:03:09 24:00:00", (23, 59, 59)),
        ("2017:03:09 23:59:60", (23, 59, 59)),
        ("2017:03:09 12:00:01 AM", (0, 0, 1)),
        ("2017:03:09 12:00:01 ÖÖ", (0, 0, 1)),
        ("2017:03:09 12:00:01 μμ", (12, 0, 1)),
        ("2017:03:09 凌晨12:00:01", (0, 0, 1)),
        ("2017:03:09 凌晨2:00:01", (2, 0, 1)),
        ("2017:03:09 中午12:00:01", (12, 0, 1)),
        ("2017:03:09 中午11:00:01", (11, 0, 1)),
        ("2017:03:09 中午1:00:01", (13, 0, 1)),
        ("2017:03:09 12:00:01 ق.ظ", (0, 0, 1)),
        ("2017:03:09 lúc 12:00:01 SA", (0, 0, 1)),
        ("2017:03:09 9:00:01 CH", (9, 0, 1)),  # of Vietnam only behind its "at"
        ("2017:03:09 9:00:01 md", (9, 0, 1)),
        ("2017-03-09T21:04-03:00", (21, 4, 0)),
        ("2017-03-09T00:30:00+14:00", (0, 30, 0)),
    ],
)
def test_a_time_stays_on_its_day(text: str, clock: tuple[int, int, int]) -> None:
    found = read_moment(text)
    assert found is not None and found.start == datetime(2017, 3, 9, *clock)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\0", "    :  :     :  :  ", "0000:00:00 00:00:00", "0000-00-00T00:00:00Z", "2017:13:01", "2017:02:30",
     "NaN", "none", "2017-W10", "12:30", "999999999999999", "-1", "31:12:17", "Mar mar 2017 2018",
     "2017-366", "2017-000", "2017-W54-1", "2017068"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert read_moment(text) is None


@settings(max_examples=EXAMPLES)
@given(
    moment=st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2026, 1, 1)),
    spelling=st.sampled_from(
        ["%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d %H:%M:%S", "%Y%m%d%H%M%S",
         "%Y-%m-%d %I:%M:%S %p", "%a, %d %b %Y %H:%M:%S +0200", "%d.%m.%Y %H:%M:%S", "%c"]
    ),
)  # fmt: skip
def test_every_moment_is_read_back(moment: datetime, spelling: str) -> None:
    found = read_moment(moment.strftime(spelling))
    assert found is not None and found.start == moment.replace(microsecond=0)


# --- belief ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1970:01:01 00:03:17", "1969:12:31 16:00:00", "1980:01:01 00:00:00", "1980-01-01", "1979:12:31 23:00:00",
        "1979:11:30 00:00:00", "1904:01:01 00:00:00", "1900:01:01 00:00:00", "1899-12-30", "1601:01:01 00:00:00",
        "1858:11:17 00:00:00", "2002:12:08 12:00:00", "2038:01:19 03:14:07", "2106:02:07 06:28:15", "2099-01-01",
        "9999:12:31 23:59:59", "0001:01:01 00:00:00", "1999:11:30 00:00:00",
    ],
)  # fmt: skip
def test_placeholders_are_not_believed(text: str) -> None:
    moment = read_moment(text)
    assert moment is None or not is_possible(moment)


@pytest.mark.parametrize("text", ["2000:01:01 00:00:00", "2001-01-01T00:00:00Z"])
def test_placeholders_to_the_second(text: str) -> None:
    moment = read_moment(text)
    assert moment is not None and not is_possible(moment)
    assert is_possible(Moment(moment.start + timedelta(seconds=9)))  # of which there are many photographs


@pytest.mark.parametrize(
    "text", ["1839", "1893-07-04", "1969:07:20 20:17:40", "1985:01:01 00:00:00", "1980:06:05 1:02"]
)
def test_old_dates_are_believed(text: str) -> None:
    moment = read_moment(text)
    assert moment is not None and is_possible(moment)


def test_a_clock_that_is_wrong_is_no_measure_of_the_future() -> None:
    moment = Moment(datetime(2020, 5, 5))
    assert is_possible(moment, now_s=0.0) and is_possible(moment, now_s=1e300)
    assert not is_possible(Moment(datetime(2031, 1, 1)), now_s=datetime(2030, 1, 1).timestamp())
    assert is_possible(Moment(datetime(2030, 1, 1)), now_s=datetime(2030, 1, 1).timestamp())


def test_the_first_second_of_a_year_is_believed_where_nothing_else_is_said() -> None:
    new_year, other = Moment(datetime(2012, 1, 1)), Moment(datetime(2012, 8, 9, 1, 2, 3))
    assert is_doubtful(new_year) and not is_doubtful(other)
    assert choose([("a", new_year), ("b", other)]) == ("b", other)
    assert choose([("a", new_year)]) == ("a", new_year)


def test_a_later_source_may_be_more_exact() -> None:
    year, day = Moment(datetime(2011, 1, 1), timedelta(days=365)), Moment(datetime(2011, 6, 5), timedelta(days=1))
    second, other = Moment(datetime(2011, 6, 5, 10)), Moment(datetime(2012, 6, 5, 10))
    assert choose([("a", year), ("b", other), ("c", day), ("d", second)]) == ("d", second)
    assert choose([("a", day), ("b", other)]) == ("a", day)
    utc = Moment(datetime(2011, 6, 6, 4), utc=True)
    assert choose([("gps", utc), ("name", Moment(datetime(2011, 6, 5, 21)))]) == (
        "name",
        Moment(datetime(2011, 6, 5, 21)),
    )
    assert choose([("gps", utc), ("name", Moment(datetime(2011, 6, 3, 21)))]) == ("gps", utc)


# --- names ---------------------------------------------------------------------------------------------------

DAY, SECOND = "2017-03-09T00:00:00", "2017-03-09T21:04:33"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG-20170309-WA0012.jpeg", DAY),
        ("WhatsApp Image 2017-03-09 at 21.04.33 (2).jpeg", SECOND),
        ("WhatsApp Image 2017-03-09 at 9.04.33 PM.jpeg", SECOND),
        ("IMG_20170309_210433_1.jpg", SECOND),
        ("IMG_20170309_210433~2.jpg", SECOND),
        ("MVIMG_20170309_210433.jpg", SECOND),
        ("PXL_20170309_210433000.PORTRAIT.jpg", SECOND),
        ("20170309_210433.heic", SECOND),
        ("20170309210433.png", SECOND),
        ("BURST20170309210433_COVER.jpg", SECOND),
        ("signal-2017-03-09-21-04-33-000.jpg", SECOND),
        ("photo_2017-03-09_21-04-33.jpg", SECOND),
        ("Screen Shot 2017-03-09 at 9.04.33\u202fPM.png", SECOND),
        ("Bildschirmfoto 2017-03-09 um 21.04.33.png", SECOND),
        ("Captura de pantalla 2017-03-09 a las 21.04.33.png", SECOND),
        ("Screenshot from 2017-03-09 21-04-33.png", SECOND),
        ("Screenshot_2017-03-09-21-04-33-000_com.app.png", SECOND),
        ("2017_0309_210433_017.JPG", SECOND),
        ("WP_20170309_21_04_33_Pro.jpg", SECOND),
        ("WP_20170309_004.jpg", DAY),
        ("2017-03-09T21_04_33.jpg", SECOND),
        ("2017-03-09 21.04.33-1.jpg", SECOND),
        ("Oma 9.3.2017.jpg", DAY),
        ("2017年3月9日.jpg", DAY),
        ("25600309_210433.jpg", SECOND),
        ("FB_IMG_1489093473000.jpg", SECOND),
        ("mmexport1489093473000.jpg", SECOND),
        ("2017030921043300-0123456789ABCDEF0123456789ABCDEF.jpg", SECOND),  # Nintendo Switch
        ("2017年03月09日21時04分33秒.jpg", SECOND),
        ("2017年3月9日 21时04分33秒.jpg", SECOND),
        ("Kép 2017. 03. 09. 21.04.33.jpg", SECOND),
        ("Kép 2017-03-09.jpg", DAY),
        ("Foto am 09.03.2017 um 21.04.33.jpg", SECOND),
        ("Skjermbilde 2017-03-09 kl. 21.04.33.png", SECOND),
        ("截屏2017-03-09 21.04.33.png", SECOND),
        ("截屏2017-03-09 下午9.04.33.png", SECOND),
        ("스크린샷 2017-03-09 오후 9.04.33.png", SECOND),
        ("Captura de pantalla 2017-03-09 a la(s) 21.04.33.png", SECOND),
        ("Captura de ecrã 2017-03-09, às 21.04.33.png", SECOND),
        ("Schermata 2017-03-09 alle 21.04.33.png", SECOND),
        ("Ekran Resmi 2017-03-09 ÖS 9.04.33.png", SECOND),
        ("Ekran Resmi 2017-03-09 09.04.33 ÖS.png", SECOND),
        ("Στιγμιότυπο 2017-03-09, 9.04.33 μ.μ..png", SECOND),
        ("لقطة 2017-03-09 9.04.33 م.png", SECOND),
        ("Ảnh Màn hình 2017-03-09 lúc 9.04.33 CH.png", SECOND),
        ("Tangkapan Skrin 2017-03-09 pada 9.04.33 PTG.png", SECOND),
        ("截圖 2017-03-09 晚上9.04.33.png", SECOND),
        ("Näyttökuva 2017-03-09 klo 9.04.33 ip.png", SECOND),
        ("צילום מסך 2017-03-09 ב-21.04.33.png", DAY),
        ("PhotoFunia-1489093473.jpg", SECOND),
        ("LINE_1489093473000.jpg", SECOND),
        ("WhatsApp Image 2017-03-09 à(s) 21.04.33.jpeg", SECOND),
        ("RPReplay_Final1489093473.png", SECOND),
        ("received_1489093473.jpeg", SECOND),
        ("FaceApp_1489093473000.jpg", SECOND),
    ],
)
def test_dates_in_names(name: str, expected: str) -> None:
    found = moment_of_name(name)
    assert found is not None and found.start.replace(microsecond=0).isoformat() == expected


@pytest.mark.parametrize(
    "name",
    ["DSC_2017.jpg", "IMG_0309.jpg", "P1030917.JPG", "20171345.jpg", "wallpaper_20481024.jpg", "1920x1080.png",
     "20170309-1234-1234-1234-123456789abc.jpg", "9f20170309ab8acd99e01b22.png", "12345678901234.jpg",
     "IMG_19700101_000000.jpg", "19800101_000012.jpg", "x" * 300 + ".jpg", "17.03.09.jpg",
     "received_10153012345678901.jpeg", "tel 1489093473.jpg", "1489093473.jpg"],
)  # fmt: skip
def test_names_without_a_date(name: str) -> None:
    assert moment_of_name(name) is None


@settings(max_examples=EXAMPLES)
@given(
    head=st.sampled_from(["", "IMG_", "img_abc_", "DSC-", "scan ", "No. "]),
    number=st.integers(0, 10**17 - 1),
    tail=st.sampled_from(["", "-1", " kl. 3", "_0123456789abcdef0123456789abcdef", "分"]),
)
def test_a_number_in_a_name_is_a_date_only_if_it_begins_with_one(head: str, number: int, tail: str) -> None:
    digits = str(number)
    found = moment_of_name(f"{head}{digits}{tail}.jpg")
    if found is None or len(digits) in (10, 13):  # seconds or thousandths of them since 1970
        return
    year = found.start.year + 543 * digits.startswith("25")
    assert digits.startswith(f"{year}{found.start:%m%d}") and len(digits) in (8, 12, 14, 16, 17)


# --- what stands in files ------------------------------------------------------------------------------------


def test_exif_dates_in_their_order(tmp_path: Path) -> None:
    fields, original, digitised = (
        {0x0132: "2019:01:02 03:04:05"},
        {0x9003: "2017:01:02 03:04:05"},
        {0x9004: "2018:01:02"},
    )
    found = metadata_of(tmp_path / "a.jpg", encoded(exif=exif_bytes(fields, original | digitised)))
    assert (found.taken_at, found.date_source) == ("2017-01-02T03:04:05", "exif:DateTimeOriginal")
    found = metadata_of(tmp_path / "b.jpg", encoded(exif=exif_bytes(fields, digitised)))
    assert (found.taken_at, found.date_source) == ("2018-01-02T00:00:00", "exif:DateTimeDigitized")
    found = metadata_of(tmp_path / "c.jpg", encoded(exif=exif_bytes(fields)))
    assert (found.taken_at, found.date_source) == ("2019-01-02T03:04:05", "exif:DateTime")


@pytest.mark.parametrize(
    "placeholder", ["1970:01:01 00:00:00", "    :  :     :  :  ", "2002:12:08 12:00:00", "garbage"]
)
def test_placeholders_fall_through(tmp_path: Path, placeholder: str) -> None:
    found = metadata_of(
        tmp_path / "a.jpg", encoded(exif=exif_bytes({}, {0x9003: placeholder, 0x9004: "2018:01:02 03:04:05"}))
    )
    assert (found.taken_at, found.date_source) == ("2018-01-02T03:04:05", "exif:DateTimeDigitized")
    found = metadata_of(tmp_path / "IMG-20180102-WA0003.jpg", encoded(exif=exif_bytes({}, {0x9003: placeholder})))
    assert (found.taken_at, found.date_source) == ("2018-01-02T00:00:00", "name")


def test_the_satellites_time_is_put_on_the_clocks_of_the_place(tmp_path: Path) -> None:
    clock = {29: "2017:03:10", 7: (5.0, 4.0, 33.0)}
    found = metadata_of(tmp_path / "a.jpg", encoded(exif=exif_bytes({}, None, clock)))
    assert (found.taken_at, found.date_source) == ("2017-03-10T05:04:33", "exif:GPSDateStamp")
    there = {1: "N", 2: (37.0, 46.0, 0.0), 3: "W", 4: (122.0, 25.0, 0.0)}
    found = metadata_of(tmp_path / "b.jpg", encoded(exif=exif_bytes({}, None, clock | there)))
    assert found.taken_at == "2017-03-09T21:04:33"
    found = metadata_of(tmp_path / "IMG_20170309_220501.jpg", encoded(exif=exif_bytes({}, None, clock | there)))
    assert (found.taken_at, found.date_source) == ("2017-03-09T22:05:01", "name")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("properties", "source"),
    [
        (" exif:DateTimeOriginal='2017-03-09T21:04:33'>", "xmp:DateTimeOriginal"),
        ("><photoshop:DateCreated>2017-03-09T21:04:33-08:00</photoshop:DateCreated>", "xmp:DateCreated"),
        (" xmp:CreateDate='2017-03-09T21:04:33.0'>", "xmp:CreateDate"),
        ("><dc:date><rdf:Seq><rdf:li>2017-03-09T21:04:33</rdf:li></rdf:Seq></dc:date>", "xmp:date"),
        (" tiff:DateTime='2017-03-09T21:04:33Z'>", "xmp:DateTime"),
        (" xmlns:d='http://purl.org/dc/terms/' d:created='2017-03-09T21:04:33'>", "xmp:CreateDate"),
        (" xmlns:d='http://purl.org/dc/terms/' d:modified='2017-03-09T21:04:33'>", "xmp:ModifyDate"),
        (" xmlns:a='http://ns.acdsee.com/iptc/1.0/' a:datetime='2017-03-09T21:04:33'>", "xmp:DateCreated"),
        (
            " xmlns:M='http://ns.microsoft.com/photo/1.0/'><M:DateAcquired>2017-03-09T21:04:33</M:DateAcquired>",
            "xmp:DateAcquired",
        ),
        (
            " xmlns:DM='http://ns.adobe.com/xmp/1.0/DynamicMedia/' DM:shotDate='2017-03-09T21:04:33'>",
            "xmp:DateCreated",
        ),
        ("><xmp:ModifyDate>\n 2017-03-09T21:04:33\n</xmp:ModifyDate>", "xmp:ModifyDate"),
    ],
)
def test_xmp_in_pictures(tmp_path: Path, kind: str, properties: str, source: str) -> None:
    packet = xmp(properties)
    if kind == "PNG":
        content = png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    elif kind == "TIFF":
        content = encoded(kind, tiffinfo={700: packet})
    elif kind == "JPEG":
        content = jpeg_with(segment(0xE1, XMP_HEAD + packet))
    else:
        content = encoded(kind, xmp=packet)
    found = metadata_of(tmp_path / "a", content)
    assert (found.taken_at, found.date_source, found.format) == (SECOND, source, kind)


@pytest.mark.parametrize(
    "packet",
    [
        xmp(" exif:DateTimeOriginal='2017-03-09T21:04:33'>").decode().encode("utf-16"),
        b"\xef\xbb\xbf\n\n" + xmp(" exif:DateTimeOriginal='2017-03-09T21:04:33'>") + b"\0\0 rubbish <",
        xmp(" exif:DateTimeOriginal='2017-03-09T21:04:33'><exif:Flash>")[:-40],
        xmp(" z:DateTimeOriginal='2017-03-09T21:04:33'>", "xmlns:z='http://ns.adobe.com/exif/1.0/' "),
        b"<rdf:Description exif:DateTimeOriginal='2017-03-09T21:04:33'/>",
        xmp("><exif:DateTimeOriginal>2017-03-09&#x54;21:04:33</exif:DateTimeOriginal>"),
        xmp("><exif:DateTimeOriginal/><exif:DateTimeOriginal>2017-03-09T21:04:33</exif:DateTimeOriginal>\x0b"),
    ],
)
def test_xmp_as_it_comes(packet: bytes) -> None:
    assert said_in_xmp(packet).dates["xmp:DateTimeOriginal"].isoformat() == SECOND


def test_the_day_of_an_import_does_not_beat_a_date_of_the_camera(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0132] = "2011:06:05 10:11:12"
    packet = xmp(" xmlns:M='http://ns.microsoft.com/photo/1.0/'><M:DateAcquired>2020-03-04T05:06:07</M:DateAcquired>")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif, xmp=packet)
    found = metadata_of(tmp_path / "a.jpg", buffer.getvalue())
    assert (found.taken_at, found.date_source) == ("2011-06-05T10:11:12", "exif:DateTime")


def test_xmp_with_entities_that_grow_says_nothing() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "2017"><!ENTITY b "&a;&a;">]><x exif:DateTimeOriginal="&b;"/>'
    assert said_in_xmp(bomb).dates == {}


def test_the_place_and_camera_of_xmp(tmp_path: Path) -> None:
    packet = xmp(" exif:GPSLatitude='33,52.18S' exif:GPSLongitude='151,12,30E' tiff:Make='Nokia' tiff:Model='N8'>")
    found = metadata_of(tmp_path / "a.jpg", jpeg_with(segment(0xE1, XMP_HEAD + packet)))
    assert (found.latitude, found.longitude) == pytest.approx((-33.8696667, 151.2083333))
    assert found.camera == "Nokia N8"


@pytest.mark.parametrize(
    ("text", "letters", "expected"),
    [
        ("48,8.22N", "NS", 48.137), ("11,34,33.6W", "EW", -11.576), ("48.137", "NS", 48.137), ("-11.5", "EW", -11.5),
        ("48.137N", "NS", 48.137), ("48,8.22E", "NS", None), ("48,88N", "NS", None), ("48,8.22", "NS", None),
        ("N48", "NS", None), ("1e9N", "NS", None), ("", "NS", None), ("nan", "NS", None), ("-48,8N", "NS", None),
    ],
)  # fmt: skip
def test_written_degrees(text: str, letters: str, expected: float | None) -> None:
    found = written_degrees(text, letters)
    assert found is expected is None or found == pytest.approx(expected)


def test_broken_rationals_do_not_lose_the_rest() -> None:
    nan = float("nan")
    assert degrees_of((48.0, 8.0, nan), "N", "NS") == pytest.approx(48.1333333)
    assert degrees_of((48.5, nan, nan), "S", "NS") == -48.5
    assert degrees_of((nan, 8.0, 0.0), "N", "NS") is None
    assert degrees_of((48.0, -1.0, 0.0), "N", "NS") is None
    assert degrees_of(("x", 8, None), "N", "NS") is None


def iptc_block(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(value)) + value for number, value in fields)


@pytest.mark.parametrize(
    ("fields", "expected", "source"),
    [
        (((55, b"20170309"), (60, b"210433+0100")), SECOND, "iptc:DateCreated"),
        (((55, b"20170309"), (60, b"21:04:33-05:00")), SECOND, "iptc:DateCreated"),
        (((55, b"20170309"),), DAY, "iptc:DateCreated"),
        (((62, b"20170309"), (63, b"210433")), SECOND, "iptc:DigitalCreationDate"),
        (((55, b"00000000"), (62, b"20170309")), DAY, "iptc:DigitalCreationDate"),
        (((5, b"a title"), (55, b"2017-03-09\0")), DAY, "iptc:DateCreated"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_iptc(tmp_path: Path, kind: str, fields: tuple[tuple[int, bytes], ...], expected: str, source: str) -> None:
    block = iptc_block(*fields)
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(block)) + block + b"\0" * (len(block) % 2)
    if kind == "JPEG":
        content = jpeg_with(segment(0xED, b"Photoshop 3.0\0" + resource))
    elif kind == "TIFF":
        content = encoded("TIFF", tiffinfo={33723: block})
    else:
        content = png_with(
            chunk(b"tEXt", b"Raw profile type iptc\0\niptc\n%8d\n" % len(resource) + resource.hex().encode())
        )
    found = metadata_of(tmp_path / "a", content)
    assert (found.taken_at, found.date_source) == (expected, source)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("keyword", "text", "source"),
    [
        ("Creation Time", "Thu, 09 Mar 2017 21:04:33 +0100", "png:CreationTime"),
        ("create-date", "2017-03-09T21:04:33+01:00", "png:CreationTime"),
        ("exif:DateTimeOriginal", "2017:03:09 21:04:33", "png:DateTimeOriginal"),
        ("Date", "2017-03-09 21:04:33", "png:CreationTime"),
        ("date:create", "2017-03-09T21:04:33+00:00", "png:ModifyDate"),
        ("CREATION TIME", "2017:03:09 21:04:33", "png:CreationTime"),
        ("creation-time", "2017:03:09 21:04:33", "png:CreationTime"),
        ("Create Date", "2017:03:09 21:04:33", "png:CreationTime"),
        ("DateTimeDigitized", "2017:03:09 21:04:33", "png:CreationTime"),
        ("Timestamp", "1489093473", "png:CreationTime"),
        ("Date Taken", "March 9, 2017 at 9:04:33 PM GMT+2", "png:DateTimeOriginal"),
        ("Date/Time Original", "2017:03:09 21:04:33", "png:DateTimeOriginal"),
        ("xmp:Create_Date", "2017:03:09 21:04:33", "png:CreationTime"),
        ("ModifyDate", "2017:03:09 21:04:33", "png:ModifyDate"),
        ("date:timestamp", "2017-03-09T21:04:33+00:00", "png:ModifyDate"),
        ("exif:DateTime", "2017:03:09 21:04:33", "png:ModifyDate"),
    ],
)
def test_texts_of_png(tmp_path: Path, keyword: str, text: str, source: str, late: bool) -> None:
    written = chunk(b"tEXt", f"{keyword}\0{text}".encode())
    found = metadata_of(tmp_path / "a.png", png_with(late=written) if late else png_with(written))
    assert (found.taken_at, found.date_source) == (SECOND, source)


# --- what stands beside --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sidecar", ["a.jpg.xmp", "a.xmp", "A.XMP", "a.JPG.xmp", "A.jpg.Xmp"])
def test_the_file_of_an_editor_beside_the_picture(tmp_path: Path, sidecar: str) -> None:
    (tmp_path / sidecar).write_bytes(
        xmp(" exif:DateTimeOriginal='2017-03-09T21:04:33' exif:GPSLatitude='1,30N' exif:GPSLongitude='2,30E'>")
    )
    found = metadata_of(tmp_path / "a.jpg", encoded(exif=exif_bytes({}, {0x9003: "2016:01:01 10:00:00"})))
    assert (found.taken_at, found.date_source) == (SECOND, "sidecar:DateTimeOriginal")
    assert (found.latitude, found.longitude) == (1.5, 2.5)
    assert read_picture(tmp_path / "a.jpg", SQUASH, content=encoded()).metadata.taken_at is None


LONG = "Screenshot_of_a_rather_long_name_of_an_app_1.jpg"


@pytest.mark.parametrize(
    ("name", "beside", "title"),
    [
        ("a.jpg", "a.jpg.json", "a.jpg"),
        ("a.jpg", "a.jpg.supplemental-metadata.json", "a.jpg"),
        ("a.jpg", "a.jpg.supplemental-me.json", "a.jpg"),
        ("a.jpg", "a.jpg.s.json", "a.jpg"),
        ("a.jpg", "a.jpg..json", "a.jpg"),
        ("a(3).jpg", "a.jpg(3).json", "a.jpg"),
        ("a(3).jpg", "a.jpg.supplemental-metadata(3).json", "a.jpg"),
        ("a-edited.jpg", "a.jpg.supplemental-metadata.json", "a.jpg"),
        ("a-bearbeitet.jpg", "a.jpg.json", "a.jpg"),
        ("a-edited(2).jpg", "a.jpg(2).json", "a.jpg"),
        ("A.JPG", "A.JPG.JSON", "A.JPG"),
        (LONG, LONG[:46] + ".json", LONG),
        ("me\u0301.jpg", "me\u0301.jpg.json", "mé.jpg"),
    ],
)
def test_takeout(tmp_path: Path, name: str, beside: str, title: str) -> None:
    body = {
        "title": title,
        "photoTakenTime": {"timestamp": "1489093473"},
        "geoData": {"latitude": 1.5, "longitude": 2.5},
    }
    (tmp_path / beside).write_text(json.dumps(body), encoding="utf-8")
    found = metadata_of(tmp_path / name, encoded())
    assert (found.taken_at, found.date_source) == (SECOND, "takeout:photoTakenTime")
    assert (found.latitude, found.longitude) == (1.5, 2.5)
    assert metadata_of(tmp_path / "b.jpg", encoded()).taken_at is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"photoTakenTime": 5}', b'{"photoTakenTime": {"timestamp": "x"}}', b"\xff\xfe{",
        b'{"photoTakenTime": {"timestamp": 1e999}}', b'{"photoTakenTime": {"timestamp": "0"}}', b"[" * 100_000,
        b'{"photoTakenTime": {"timestamp": NaN}, "geoData": {"latitude": 1e99, "longitude": "NaN"}}',
    ],
)  # fmt: skip
def test_other_json_beside_a_picture_says_nothing(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "a.jpg.json").write_bytes(body)
    found = metadata_of(tmp_path / "a.jpg", encoded())
    assert (found.taken_at, found.latitude) == (None, None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
def test_what_is_no_file_beside_a_picture_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg.xmp")
    (tmp_path / "a.jpg.json").mkdir()
    (tmp_path / "a.xmp").symlink_to(tmp_path / "nowhere")
    assert metadata_of(tmp_path / "a.jpg", encoded()).taken_at is None


def test_a_new_file_beside_a_picture_is_seen(tmp_path: Path) -> None:
    assert said_beside(str(tmp_path / "a.jpg"))[0].dates == {}
    (tmp_path / "a.xmp").write_bytes(xmp(" xmp:CreateDate='2017-03-09T21:04:33'>"))
    os.utime(tmp_path, ns=(1, 1))
    import time

    time.sleep(0.05)
    assert "sidecar:CreateDate" in said_beside(str(tmp_path / "a.jpg"))[0].dates


def test_a_copy_is_described_by_its_own_name(tmp_path: Path) -> None:
    named = describe(Embedded("JPEG"), "/x/IMG-20170309-WA0001.jpg", beside=False)
    assert describe_again(named, str(tmp_path / "party.jpg")).taken_at is None
    assert describe_again(named, str(tmp_path / "IMG_20180102_030405.jpg")).taken_at == "2018-01-02T03:04:05"
    taken = PictureMetadata("JPEG", SECOND, "Nokia N8", 1.5, 2.5, "exif:DateTimeOriginal")
    assert describe_again(taken, str(tmp_path / "IMG_20180102_030405.jpg")) == taken
    changed = PictureMetadata("JPEG", "2019-01-02T03:04:05", date_source="exif:DateTime")
    assert describe_again(changed, str(tmp_path / "IMG_20180102_030405.jpg")).date_source == "name"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.xmp").write_bytes(xmp(" exif:DateTimeOriginal='2015-05-06T07:08:09'>"))
    assert describe_again(taken, str(tmp_path / "b" / "a.jpg")).date_source == "sidecar:DateTimeOriginal"


# --- nothing of it costs a picture -----------------------------------------------------------------------------

anything = st.one_of(
    st.binary(max_size=120),
    st.text(max_size=120),
    st.integers(),
    st.floats(),
    st.none(),
    st.tuples(st.floats(), st.floats(), st.floats()),
    st.lists(st.one_of(st.text(max_size=5), st.floats(), st.none()), max_size=4),
)


def check(found: PictureMetadata) -> None:
    """What may go further: finite, in range, whole text, a date that is one."""
    if found.taken_at is not None:
        moment = datetime.fromisoformat(found.taken_at)
        assert moment.tzinfo is None and 1826 <= moment.year <= 2100
    assert found.date_source is None or found.date_source in SOURCES
    assert (found.taken_at is None) == (found.date_source is None)
    assert (found.latitude is None) == (found.longitude is None)
    if found.latitude is not None and found.longitude is not None:
        assert -90 <= found.latitude <= 90 and -180 <= found.longitude <= 180
    if found.camera is not None:
        assert 0 < len(found.camera) <= 100 and found.camera.isprintable()
        found.camera.encode("utf-8")


class Fields(dict[Any, Any]):
    """EXIF as Pillow hands it out, with anything in it."""

    endian = "<"

    def get_ifd(self, tag: int) -> Any:
        return self.setdefault(("ifd", tag), {})


@pytest.mark.slow
@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(
    main=st.dictionaries(st.sampled_from([0x0132, 0x010F, 0x0110, 0x0112, 700, 33723, 34377, 0x9003]), anything),
    details=st.dictionaries(st.sampled_from([0x9003, 0x9004, 0x9290, 0x9291, 0x9292]), anything),
    gps=st.dictionaries(st.sampled_from([1, 2, 3, 4, 7, 29]), anything),
    info=st.dictionaries(
        st.one_of(
            st.sampled_from(["xmp", "photoshop", "XML:com.adobe.xmp", "Creation Time", "Raw profile type exif"]),
            st.sampled_from(["Raw profile type APP1", "Raw profile type iptc", "date:create"]),
            st.integers() | st.none(),
        ),
        st.one_of(anything, st.dictionaries(st.just(0x0404), anything)),
    ),
    name=st.text(max_size=60),
)  # fmt: skip
def test_any_value_in_any_field_is_survived(
    main: dict[Any, Any], details: dict[Any, Any], gps: dict[Any, Any], info: dict[Any, Any], name: str
) -> None:
    exif = Fields(main)
    exif[("ifd", 0x8769)], exif[("ifd", 0x8825)] = details, gps
    check(describe(read_embedded("PNG", exif, info), name, beside=False))  # type: ignore[arg-type]


@pytest.mark.slow
@settings(max_examples=5 * EXAMPLES, deadline=None)
@given(junk=st.binary(max_size=300), text=st.text(max_size=200))
@example(junk=b"\x1c\x02\x37\xff\xff", text="2011" * 60)
@example(junk=b"8BIM\x04\x04", text="9" * 5000)
def test_any_bytes_are_survived(junk: bytes, text: str) -> None:
    said_in_xmp(junk)
    said_in_xmp(b"<x exif:DateTimeOriginal='" + junk + b"'>" + junk)
    said_in_xmp(xmp(f"><exif:DateTimeOriginal>{text}"))
    said_in_iptc(junk)
    iptc_in_resources(b"8BIM\x04\x04" + junk)
    moment_of_name(text)
    read_moment(text)
    written_degrees(text, "NS")
    text_of(junk)
    camera_of(text, junk)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    junk=st.binary(max_size=200),
    marker=st.sampled_from([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF, 0xFE]),
    head=st.sampled_from(
        [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", XMP_HEAD, b"Photoshop 3.0\0", b"Photoshop 3.0\x008BIM\x04\x04",
         b"ICC_PROFILE\0", b"MPF\0", b"MPF\0II*\0", b"JFIF\0", b"JFIF"]
    ),
)  # fmt: skip
def test_any_segment_of_a_jpeg_leaves_its_picture(junk: bytes, marker: int, head: bytes) -> None:
    plain = read_picture("a.jpg", SQUASH, content=encoded())
    found = read_picture("a.jpg", SQUASH, content=jpeg_with(segment(marker, head + junk)))
    check(found.metadata)
    assert {found.width, found.height} == {plain.width, plain.height}


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    junk=st.binary(max_size=200),
    name=st.sampled_from(
        [
            b"tEXt",
            b"zTXt",
            b"iTXt",
            b"eXIf",
            b"iCCP",
            b"gAMA",
            b"cHRM",
            b"pHYs",
            b"sRGB",
            b"tIME",
            b"acTL",
            b"abCd",
            b"bKGD",
        ]
    ),
    head=st.sampled_from([b"", b"k\0", b"k\0\0", b"XML:com.adobe.xmp\0\0\0\0\0", b"XML:com.adobe.xmp\0\1\0\0\0"]),
    late=st.booleans(),
    whole=st.booleans(),
)
def test_any_chunk_of_a_png_leaves_its_picture(junk: bytes, name: bytes, head: bytes, late: bool, whole: bool) -> None:
    written = chunk(name, head + junk, whole=whole)
    found = read_picture("a.png", SQUASH, content=png_with(late=written) if late else png_with(written))
    check(found.metadata)
    assert (found.width, found.height) == (256, 256)


@pytest.mark.slow
def test_large_metadata_leaves_the_picture_and_what_else_it_says() -> None:
    bomb = zlib.compress(bytes(100 << 20), 9)
    date = chunk(b"tEXt", b"Creation Time\x002017:03:09 21:04:33")
    for large in (
        chunk(b"zTXt", b"k\0\0" + bomb),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"k\0\0" + bomb),
        chunk(b"tEXt", b"k\0" + bytes(70 << 20)),
    ):
        for content in (png_with(date, large), png_with(date, late=large)):
            assert read_picture("a.png", SQUASH, content=content).metadata.taken_at == SECOND
    many = [segment(0xE1, XMP_HEAD + b"<a>" * 20_000)] * 100 + [segment(0xFE, bytes(65_000))] * 100
    assert read_picture("a.jpg", SQUASH, content=jpeg_with(*many)).width == 256
