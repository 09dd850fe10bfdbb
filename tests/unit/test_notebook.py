"""Hits as a notebook shows them."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import clipsearch
from clipsearch.pictures.notebook import MOST_SHOWN, SIDE
from clipsearch.records import NOTHING_CERTAIN, Band, Hit, Hits, ImageRecord
from tests.support.collections import serving
from tests.support.fake_encoder import FakeEncoder
from tests.support.pictures import fill


def hit(
    path: Path, rank: int = 1, *, score: float = 0.25, band: Band | None = "strong", size: int | None = None
) -> Hit:
    size = path.stat().st_size if size is None else size
    mtime_ns = path.stat().st_mtime_ns if path.exists() else 1
    return Hit(rank, score, str(path), ImageRecord(rank, path.name, size, mtime_ns, 1, None), (), 0.9, band)


def photo(path: Path, size: tuple[int, int] = (600, 300)) -> Path:
    image = Image.new("RGB", size, "red")
    image.getexif()[0x010F] = "SECRET MAKER"
    image.save(path, exif=image.getexif())
    return path


def pictures_in(html: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_a_hit_shows_a_small_copy_without_metadata(tmp_path: Path) -> None:
    one = hit(photo(tmp_path / "a.jpg"))
    html = one._repr_html_()
    (jpeg,) = pictures_in(html)
    assert b"SECRET" in Path(one.path).read_bytes()
    assert b"SECRET" not in jpeg
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (SIDE, SIDE // 2)
        assert not image.getexif()
    assert "1. 0.250 strong<br>a.jpg" in html
    assert "nan" not in hit(Path(one.path), score=math.nan, band=None)._repr_html_()


def test_what_cannot_be_shown_is_a_box_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    changed = photo(tmp_path / "changed.jpg")
    for one in (hit(tmp_path / "gone.jpg", size=5), hit(tmp_path / "bad.jpg"), hit(changed, size=7), hit(tmp_path)):
        html = one._repr_html_()
        assert not pictures_in(html)
        assert html.count(Path(one.path).name) >= 2  # in the box and below it


def test_names_are_text(tmp_path: Path) -> None:
    for name in ('<script>alert("x")</script>', "' onload='x", '" onerror="x', "a\x1b[31m\nb", "\udcff\u202e.jpg"):
        one = Hit(1, 0.5, f"/photos/{name}", ImageRecord(1, name, 1, 1, 1, None))
        html = Hits([one])._repr_html_()
        tags = Tags()
        tags.feed(html)
        assert tags.seen <= {"div", "br"}
        assert tags.attributes == {"style", "title"}
        assert not re.search("[\x00-\x1f\u202e\udc80-\udcff]", html)


def test_a_page_of_hits_is_bounded(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    html = Hits(hit(path, rank) for rank in range(1, 31))._repr_html_()
    assert len(pictures_in(html)) == MOST_SHOWN
    assert "and 10 more" in html
    assert len(html) < MOST_SHOWN * 50_000
    assert "no hits" in Hits()._repr_html_()


def test_hits_are_a_list_for_everything_else(tmp_path: Path) -> None:
    plain = [hit(photo(tmp_path / "a.jpg"), rank) for rank in (1, 2, 3)]
    hits = Hits(plain, lambda hit: b"")
    assert hits == plain
    assert isinstance(hits, list)
    assert repr(hits) == repr(plain)
    assert hits[1] is plain[1]
    assert hits[1:] == plain[1:]
    assert type(hits[1:]) is Hits
    assert json.dumps([one.to_dict() for one in hits])
    for same in (copy.copy(hits), copy.deepcopy(hits), pickle.loads(pickle.dumps(hits))):
        assert (type(same), same) == (Hits, plain)


@pytest.mark.slow
def test_collections_give_such_lists(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    fill(tmp_path / "photos", 7)
    index = clipsearch.index(tmp_path / "photos", encoder=encoder).index
    with clipsearch.open(index, encoder=encoder) as local, serving(index, encoder) as (url, _):
        remote = clipsearch.connect(url)
        for photos in (local, remote):
            assert all(
                type(hits) is Hits for hits in (photos.search("red"), photos.similar(5), *photos.search(["red"]))
            )
        there = 5
        shown = remote.search(f"like:{there}", 1)
        assert Path(shown[0].path).exists()
        (jpeg,) = pictures_in(shown._repr_html_())  # as the server makes it
        assert jpeg == remote.thumbnail(there, 256)
        remote.close()
    assert not pictures_in(shown._repr_html_())  # nor does a server that is gone break the page


def test_what_is_not_certain_says_so_also_in_parts_and_copies(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    hits = Hits([hit(tmp_path / "a.jpg"), hit(tmp_path / "b.jpg")], are_certain=False)
    for shown in (hits, hits[:1], pickle.loads(pickle.dumps(hits)), copy.copy(hits)):
        assert not shown.are_certain and NOTHING_CERTAIN in shown._repr_html_()
    assert Hits(list(hits)).are_certain and NOTHING_CERTAIN not in Hits(list(hits))._repr_html_()
