"""Make ui/assets/vendor/land.svg, the coasts on the map of the Earth, from Natural Earth's land at 1:110 million.

It comes from the npm package world-atlas (2.0.2, ISC; the data are in the public domain): npm pack world-atlas, unpack,
then: python -m scripts.make_land package/land-110m.json
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "ui" / "assets" / "vendor" / "land.svg"
HALF, POLE = 1800, 900  # tenths of degrees
TENTHS = 10  # of a degree: 11 km, which is more than the data have


def rings(topology: dict[str, Any]) -> Iterator[list[tuple[int, int]]]:
    """The closed lines of TopoJSON's object `land`, in tenths of degrees, east and south positive."""
    (scale_x, scale_y), (left, bottom) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for arc in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append((round((x * scale_x + left) * TENTHS), -round((y * scale_y + bottom) * TENTHS)))
        arcs.append(points)
    for geometry in topology["objects"]["land"]["geometries"]:
        polygons = geometry["arcs"] if geometry["type"] == "MultiPolygon" else [geometry["arcs"]]
        for polygon in polygons:
            for numbers in polygon:
                ring: list[tuple[int, int]] = []
                for number in numbers:
                    points = arcs[number] if number >= 0 else arcs[~number][::-1]
                    ring += [point for point in points if not ring or point != ring[-1]]
                yield unwrapped(ring)


def unwrapped(ring: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A ring that crosses the line of the date, going on beyond the edge; one around a pole, closed along it."""
    result = ring[:1]
    for (before, _), (x, y) in itertools.pairwise(ring):
        step = (x - before + HALF) % (2 * HALF) - HALF
        result.append((result[-1][0] + step, y))
    if abs(result[-1][0] - result[0][0]) > HALF:
        result += [(result[-1][0], POLE), (result[0][0], POLE)]
    middle = (min(x for x, _ in result) + max(x for x, _ in result)) / 2
    shift = -round(middle / (2 * HALF)) * 2 * HALF
    return [(x + shift, y) for x, y in result]


def path(ring: list[tuple[int, int]]) -> str:
    """A ring as a path of SVG: its first point, then steps."""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(ring)]
    return f"M{ring[0][0]} {ring[0][1]}l" + " ".join(f"{dx} {dy}" for dx, dy in steps) + "z"


def main() -> None:
    topology = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    drawn = "\n".join(path(ring) for ring in rings(topology) if len(ring) > 3)
    FILE.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1800 -900 3600 1800"><path d="{drawn}"/></svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
