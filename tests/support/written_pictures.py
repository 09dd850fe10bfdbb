"""Pictures in which real programs wrote words: made once, with ExifTool and exiv2 (whose library digiKam and darktable
use), and kept in tests/fixtures/written.zip.

    python -m tests.support.written_pictures   # needs exiftool, pyexiv2 and clipsearch[heic]
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "written.zip"
KINDS = ("jpg", "png", "tif", "webp", "jp2", "heic")

BASIC = [
    "-XMP-dc:Subject=Rome",
    "-XMP-dc:Subject=Ürümqi, China",
    "-XMP-lr:HierarchicalSubject=Places|Italy|Rome",
    "-XMP-dc:Title=Été à la plage",
    "-XMP-dc:Description=Anna & Bob <3 at the harbour",
    "-XMP-xmp:Rating=4",
    "-XMP-iptcExt:PersonInImage=Anna Müller",
]
REGIONS = [
    "-RegionInfo={AppliedToDimensions={W=64,H=48,Unit=pixel},RegionList=["
    "{Area={X=0.5,Y=0.5,W=0.1,H=0.1,Unit=normalized},Name=Zoë,Type=Face},"
    "{Area={X=0.5,Y=0.5,W=0.1,H=0.1,Unit=normalized},Name=Rex,Type=Pet},"
    "{Area={X=0.2,Y=0.5,W=0.1,H=0.1,Unit=normalized},Name=Sharp,Type=Focus}]}",
    '-RegionInfoMP={Regions=[{PersonDisplayName=Bill,Rectangle="0.1, 0.1, 0.2, 0.2"}]}',
    "-HierarchicalKeywords={Keyword=Animals,Children={Keyword=Dogs,Children={Keyword=Poodle}}}",
    "-XMP-digiKam:TagsList=People/Zoë",
    "-XMP-microsoft:LastKeywordXMP=Trips/Spain",
    "-XMP-microsoft:RatingPercent=99",
    "-XMP-acdsee:Caption=By the pool",
    "-PersonInImageWDetails={PersonName=Carla D}",
]
EXIFTOOL: dict[str, list[str]] = {
    **{f"basic.{kind}": BASIC for kind in KINDS},
    "iptc.jpg": [
        "-codedcharacterset=utf8",
        "-IPTC:Keywords=Hafen",
        "-IPTC:Keywords=Łódź",
        "-IPTC:ObjectName=Hafenbild",
        "-IPTC:Caption-Abstract=Größe des Hafens",
        "-IPTC:Headline=Ankunft",
    ],
    "iptc-latin.jpg": ["-IPTC:Keywords=Straße", "-IPTC:Caption-Abstract=Größe des Hafens"],
    "explorer.jpg": [
        "-EXIF:ImageDescription=OLYMPUS DIGITAL CAMERA",
        "-EXIF:UserComment=Сообщение от Анны",
        "-XPTitle=タイトル",
        "-XPKeywords=one;two words;三",
        "-XPComment=Kommentar",
        "-Rating=3",
        "-RatingPercent=50",
    ],
    "regions.jpg": REGIONS,
    "rejected.jpg": ["-xmp:Rating=-1", "-UserComment=a plain comment", "-ImageDescription=Größe"],
    "languages.jpg": [
        "-XMP-dc:Description-de=Der Hafen",
        "-XMP-dc:Description=The harbour",
        "-XMP-dc:Description-fr=Le port",
    ],
    "big-endian.jpg": ["-ExifByteOrder=MM", "-EXIF:UserComment=港の写真", "-XPTitle=Überschrift"],
}
EXIV2: dict[str, dict[str, Any]] = {
    "digikam.jpg": {
        "Xmp.digiKam.TagsList": ["Places/Italy/Rome", "People/Anna"],
        "Xmp.lr.hierarchicalSubject": ["Places|Italy|Rome", "People|Anna"],
        "Xmp.MicrosoftPhoto.LastKeywordXMP": ["Places/Italy/Rome", "People/Anna"],
        "Xmp.mediapro.CatalogSets": ["Places|Italy|Rome"],
        "Xmp.dc.subject": ["Rome", "Anna"],
        "Xmp.dc.description": {'lang="x-default"': "Grüße aus Rom", 'lang="it"': "Saluti da Roma"},
        "Xmp.dc.title": {'lang="x-default"': "Rom"},
        "Xmp.xmp.Rating": "5",
        "Xmp.MicrosoftPhoto.Rating": "99",
        "Xmp.mwg-rs.Regions": 'type="Struct"',
        "Xmp.mwg-rs.Regions/mwg-rs:RegionList": 'type="Bag"',
        "Xmp.mwg-rs.Regions/mwg-rs:RegionList[1]": 'type="Struct"',
        "Xmp.mwg-rs.Regions/mwg-rs:RegionList[1]/mwg-rs:Name": "Anna",
        "Xmp.mwg-rs.Regions/mwg-rs:RegionList[1]/mwg-rs:Type": "Face",
    },
    "darktable.jpg": {
        "Xmp.dc.subject": ["Rome", "Italy", "darktable|exported"],
        "Xmp.lr.hierarchicalSubject": ["Places|Italy|Rome", "darktable|exported", "darktable|format|jpg"],
        "Xmp.xmp.Rating": "-1",
    },
}
WRITTEN: dict[str, dict[str, Any]] = {
    **{
        f"basic.{kind}": {
            "title": "Été à la plage",
            "caption": "Anna & Bob <3 at the harbour",
            "people": ["Anna Müller"],
            "keywords": ["Places|Italy|Rome", "Ürümqi, China"],
            "rating": 4,
        }
        for kind in KINDS
    },
    "iptc.jpg": {"title": "Hafenbild", "caption": "Größe des Hafens\nAnkunft", "keywords": ["Hafen", "Łódź"]},
    "iptc-latin.jpg": {"caption": "Größe des Hafens", "keywords": ["Straße"]},
    "explorer.jpg": {
        "title": "タイトル",
        "caption": "Kommentar\nСообщение от Анны",
        "keywords": ["one", "two words", "三"],
        "rating": 3,
    },
    "regions.jpg": {
        "caption": "By the pool",
        "keywords": ["People|Zoë", "Trips|Spain", "Animals|Dogs|Poodle", "Rex"],
        "people": ["Carla D", "Bill", "Zoë"],
        "rating": 5,
    },
    "rejected.jpg": {"caption": "Größe\na plain comment", "rating": -1},
    "languages.jpg": {"caption": "The harbour\nDer Hafen\nLe port"},
    "big-endian.jpg": {"title": "Überschrift", "caption": "港の写真"},
    "digikam.jpg": {
        "title": "Rom",
        "caption": "Grüße aus Rom\nSaluti da Roma",
        "people": ["Anna"],
        "keywords": ["Places|Italy|Rome", "People|Anna"],
        "rating": 5,
    },
    "darktable.jpg": {"keywords": ["Places|Italy|Rome"], "rating": -1},
}
"""What is to be read, by the name of a file; what is not named is not there."""
BESIDE = {"beside.jpg": "beside.xmp", "beside2.jpg": "beside2.jpg.xmp", "listed.jpg": "listed.jpg.json"}
"""Pictures without words, and ExifTool's files beside them, which have those of regions.jpg."""


def main() -> None:
    """Make the archive."""
    import pillow_heif
    import pyexiv2  # type: ignore[import-not-found]

    pillow_heif.register_heif_opener()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, picture in enumerate([*WRITTEN, *BESIDE]):
            Image.new("RGB", (64, 48), (5 * number, 120, 200)).save(folder / picture, quality=50)
        for picture, options in EXIFTOOL.items():
            _run("exiftool", "-q", "-q", "-overwrite_original", *options, str(folder / picture))
        for picture, fields in EXIV2.items():
            with pyexiv2.Image(str(folder / picture)) as image:
                image.modify_xmp(fields)
        for beside in BESIDE.values():
            if beside.endswith("xmp"):
                _run(
                    "exiftool",
                    "-q",
                    "-q",
                    "-tagsfromfile",
                    str(folder / "regions.jpg"),
                    "-xmp:all",
                    str(folder / beside),
                )
                continue
            told = _run("exiftool", "-json", "-struct", str(folder / "regions.jpg"))
            (body,) = json.loads(told)
            body["SourceFile"] = "listed.jpg"
            (folder / beside).write_text(json.dumps([body], ensure_ascii=False), encoding="utf-8")
        kept = io.BytesIO()
        with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
        ARCHIVE.write_bytes(kept.getvalue())


def _run(program: str, *arguments: str) -> str:
    found = shutil.which(program)
    if found is None:
        sys.exit(f"{program} is not installed")
    return subprocess.run([found, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
