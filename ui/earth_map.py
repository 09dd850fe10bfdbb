"""Pictures on a map of the Earth: those of a question that say where they were taken, by the town that is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch import gazetteer
from clipsearch.records import IntArray
from clipsearch.search.collection import Collection
from clipsearch.ui.map_labels import say_groups

MOST_PICTURES = 20_000
_CELL = 0.02  # degrees: of the pictures in one, more may be left out than the last


class Region(NamedTuple):
    """Pictures that lie together. `name` and `country` are empty without a gazetteer, `shows` if no word sets them
    apart."""

    name: str
    country: str
    shows: str
    people: int = 0  # who live there
    code: str = ""  # of the country


@dataclass(frozen=True, slots=True)
class EarthMap:
    """Where pictures were taken. Shapes: ids (N,) int64; degrees (N, 2) float64, north and east; within (N,): the
    number of each in `regions`, or -1. `total`: pictures with a place, more than N if some were left out."""

    ids: IntArray
    degrees: npt.NDArray[np.float64]
    within: IntArray
    regions: list[Region]
    total: int


def draw_earth(photos: Collection, ids: IntArray) -> EarthMap:
    """The pictures with a place among some. Shape: ids (N,) int64, ascending."""
    found, places = [np.empty(0, np.int64)], [np.empty((0, 2))]
    for columns in photos.columns():
        at = columns.positions(ids)
        degrees = np.stack([columns.degrees("latitude")[at], columns.degrees("longitude")[at]], axis=1)
        known = ~np.isnan(degrees).any(axis=1)
        found.append(columns.row_ids[at[known]])
        places.append(degrees[known])
    own, degrees = np.concatenate(found), np.concatenate(places)
    total = len(own)
    if total > MOST_PICTURES:
        chosen = spread_sample(degrees, MOST_PICTURES)
        own, degrees = own[chosen], degrees[chosen]
    within, regions = _regions(photos, own, degrees)
    return EarthMap(own, degrees, within, regions, total)


def spread_sample(degrees: npt.NDArray[np.float64], most: int) -> IntArray:
    """Which places to keep: one of each small cell before a second, so that no far-off picture is lost. Ascending."""
    _, cells = np.unique(np.floor(degrees / _CELL), axis=0, return_inverse=True)
    cells = cells.reshape(-1)
    order = np.argsort(cells, kind="stable")
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    number = np.empty(len(order), np.int64)  # of each place within its cell
    number[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return np.sort(np.argsort(number, kind="stable")[:most])


def _regions(photos: Collection, ids: IntArray, degrees: npt.NDArray[np.float64]) -> tuple[IntArray, list[Region]]:
    if not len(ids):
        return np.empty(0, np.int64), []
    if gazetteer.is_installed():
        within, towns = gazetteer.towns_near(degrees[:, 0], degrees[:, 1], cell=0.02)
        names = [(town.name, town.region.split(", ")[-1], town.people, town.country) for town in towns]
    else:
        cells, within = np.unique(np.round(degrees), axis=0, return_inverse=True)
        within = within.reshape(-1)
        names = [("", "", 0, "")] * len(cells)
    shows = say_groups(photos, photos.vectors(ids), within)
    regions = [
        Region(name, country, shows.get(n, ""), people, code) for n, (name, country, people, code) in enumerate(names)
    ]
    return within, regions
