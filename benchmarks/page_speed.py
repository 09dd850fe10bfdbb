"""The page in Chromium over many pictures: from Enter to results, and frames a second while scrolling.

The pictures are not there: their vectors are random, and their thumbnails lie in the cache already. Frames are counted
in Chromium's own trace (DrawFrame of its compositor) while it scrolls as a finger would. Needs the dev extra and
Chromium:

    python -m benchmarks.page_speed --rows 100000 --folder DIR
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.common import machine, photo_record, random_blocks, write_index
from clipsearch.encoder.names import load_encoder
from clipsearch.search.confidence import SCENES, bank_things

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CATEGORIES = "devtools.timeline,disabled-by-default-devtools.timeline.frame,benchmark,cc"
THUMBNAILS = 20  # different pictures
SIZES = (256, 512, 1024)

TYPE = """async (query) => {
  const form = document.querySelector('.cs-search'), input = form.querySelector('.cs-query');
  const summary = document.querySelector('.cs-summary');
  input.value = query;
  const drawn = new Promise((done) => new MutationObserver((_, self) => { self.disconnect(); done(); })
    .observe(summary, { childList: true, characterData: true, subtree: true, attributes: true }));
  const began = performance.now();
  form.requestSubmit();
  await drawn;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // after the frame was painted
  return performance.now() - began;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--folder", type=Path, required=True, help="where the index and the cache are made, or were")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    asked = parser.parse_args()
    index = prepare(asked.folder, asked.rows)
    with served(index, asked.folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=SWITCHES, timeout=120_000)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        told = {
            "rows": asked.rows,
            "machine": machine(),
            "typing": typing(page, address, asked.queries),
            "scrolling": {
                order: scrolling(page, f"{address}/?unique=0&{order}") for order in ("sort=date", "sort=path")
            },
            "load_at_end": os.getloadavg()[0],
        }
        browser.close()
    print(json.dumps(told, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def prepare(folder: Path, rows: int) -> Path:
    """The index, and thumbnails of all its pictures."""
    index = folder / "photos" / ".clipsearch"
    if index.is_dir():
        return index
    encoder = load_encoder("builtin")
    write_index(folder / "photos", encoder, lambda: random_blocks(rows, encoder.dim), record=photo_record)
    rng = np.random.default_rng(0)
    cache = folder / "cache" / "thumbnails"
    for size in SIZES:
        sources = []
        for number in range(THUMBNAILS):
            noise = rng.integers(0, 256, (12, 16, 3), np.uint8)
            source = folder / f"{size}-{number}.jpg"
            Image.fromarray(noise).resize((size, size * 3 // 4), Image.Resampling.BICUBIC).save(source, quality=82)
            sources.append(source)
        for number in range(rows):
            name = f"{number:032x}"
            (cache / name[:2]).mkdir(parents=True, exist_ok=True)
            os.link(sources[number % THUMBNAILS], cache / name[:2] / f"{name}-{size}.jpg")
    return index


@contextmanager
def served(index: Path, folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "clipsearch", "ui", "--index", str(index), "--port", str(port), "--no-browser"]
    environment = {**os.environ, "CLIPSEARCH_CACHE_DIR": str(folder / "cache")}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{address}/healthz", timeout=1)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        for query in ("a dog", "birds on a wire", "people"):  # what is slow once
            httpx.post(f"{address}/v1/gallery", json={"query": query}, timeout=300).raise_for_status()
        time.sleep(10)  # what is loaded in the background
        yield address
    finally:
        server.terminate()
        server.wait(30)


def typing(page: Page, address: str, count: int) -> dict[str, Any]:
    """Milliseconds from Enter to the frame with the results of a query that was never asked before.

    Of random vectors none is a likely match: unlikely ones are shown, all of them, near-duplicates grouped.
    """
    page.goto(f"{address}/?all=1")
    page.wait_for_selector("#clipsearch[data-ready]")
    texts = [*(scene.strip() for scene in SCENES.split(";")), *(f"two {thing}s" for thing in bank_things())]
    times = []
    for query in texts[:count]:
        times.append(float(page.evaluate(TYPE, query)))
        page.wait_for_timeout(700)  # the thumbnails of the one before have come
    return {"median_ms": statistics.median(times), "p95_ms": float(np.quantile(times, 0.95)), "most_ms": max(times)}


def scrolling(page: Page, address: str) -> dict[str, Any]:
    """Frames that the compositor drew, in a trace of 12,000 pixels at 1,500 a second."""
    page.goto(address)
    page.wait_for_selector("#clipsearch:not(.cs-busy) .cs-tile.cs-loaded")
    page.wait_for_timeout(1500)
    session = page.context.new_cdp_session(page)
    events: list[dict[str, Any]] = []
    done: list[bool] = []
    session.on("Tracing.dataCollected", lambda told: events.extend(told["value"]))
    session.on("Tracing.tracingComplete", lambda _: done.append(True))
    session.send("Tracing.start", {"categories": CATEGORIES, "transferMode": "ReportEvents"})
    began = time.monotonic()
    session.send("Input.synthesizeScrollGesture", {"x": 600, "y": 500, "yDistance": -12_000, "speed": 1500})
    seconds = time.monotonic() - began
    session.send("Tracing.end")
    while not done:
        page.wait_for_timeout(50)
    drawn = sorted(event["ts"] / 1e6 for event in events if event["name"] == "DrawFrame")
    gaps = np.diff(drawn) * 1000
    return {
        "seconds": seconds,
        "frames": len(drawn),
        "frames_per_s": (len(drawn) - 1) / (drawn[-1] - drawn[0]),
        "p95_frame_ms": float(np.quantile(gaps, 0.95)),
        "dropped": sum(event["name"] == "DroppedFrame" for event in events),
        "scrolled_px": page.evaluate("scrollY"),
        "tiles": page.evaluate("document.querySelectorAll('.cs-tile').length"),
    }


if __name__ == "__main__":
    main()
