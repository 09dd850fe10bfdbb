"""A real server and a real Chromium for the tests of the page."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, sync_playwright

import clipsearch
from clipsearch.server.app import ServerOptions, create_app
from clipsearch.ui.page import add_page
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import picture

HOSTILE = "<img src=x onerror=alert(1)>"
CHROMIUM = os.environ.get("CLIPSEARCH_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",  # containers give 64 MB
]
PATIENCE_MS = 60_000

Open = Callable[..., Page]


@dataclass(slots=True)
class Site:
    """A server that runs. `page` is the application of its document."""

    address: str
    photos: Path
    page: Any


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:  # a browser is no Python package: .ci/run installs one where it can
        pytest.skip("there is no Chromium here; set CLIPSEARCH_CHROMIUM to its path")
    with sync_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, "HOME": str(tmp_path_factory.mktemp("chromium"))}
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=SWITCHES, timeout=2 * PATIENCE_MS, env=environment
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two collections: plain and graded pictures, one with a hostile name, one twice; and one of another folder."""
    photos = tmp_path_factory.mktemp("collections") / "photos"
    (photos / "plain").mkdir(parents=True)
    for name, size in (("red", (300, 200)), ("green", (200, 300)), ("blue", (240, 240)), ("yellow", (300, 200))):
        exif = Image.Exif()
        exif[0x010F] = "SecretMaker"
        Image.new("RGB", size, COLOURS[name]).save(photos / "plain" / f"{name}.jpg", exif=exif)
    Image.new("RGB", (150, 100), COLOURS["red"]).save(photos / "small red.png")
    Image.new("RGB", (220, 180), COLOURS["purple"]).save(photos / f"{HOSTILE}.jpg")
    for number in range(12):
        picture(number, size=(160, 120)).save(photos / f"graded {number}.jpg")
    (photos / f"{HOSTILE}.svg").write_text("of a kind that is not read")
    other = photos.parent / "scans"
    other.mkdir()
    Image.new("RGB", (200, 200), COLOURS["pink"]).save(other / "pink.jpg")
    encoder = FakeEncoder()
    indexes = [clipsearch.index(folder, encoder=encoder).index for folder in (photos, other)]
    yield from serve(indexes, photos, encoder)


def serve(
    indexes: list[Path],
    photos: Path,
    encoder: FakeEncoder,
    *,
    token: str | None = None,
    root_path: str = "",
    interface: Callable[..., Any] = add_page,
) -> Iterator[Site]:
    """Serve indexes with the page, in a thread, for as long as the generator lasts."""
    app = create_app(
        indexes, encoder=encoder, interface=interface, options=ServerOptions(token=token, root_path=root_path)
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", photos, app.state.page)
    server.should_exit = True
    thread.join(20)
    listening.close()


@pytest.fixture
def open_page(chromium: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens the page at a path. Afterwards: no script failed, nothing asked another server, no dialog was opened."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_at(path: str = "/", *, at: Site = site, ready: bool = True, **context: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 800}, "accept_downloads": True, **context}
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))

        def refuse(dialog: Dialog) -> None:
            complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", refuse)
        page.on("request", lambda one: None if own(one.url, at) else complaints.append(f"asked {one.url}"))
        page.on("console", lambda one: complaints.append(one.text) if "Content Security Policy" in one.text else None)
        page.goto(at.address + path, wait_until="commit")
        if ready:
            page.wait_for_selector("#clipsearch[data-ready]")
            page.wait_for_selector("#clipsearch:not(.cs-busy)")
        return page

    yield open_at
    shots = os.environ.get("CLIPSEARCH_SCREENSHOTS")
    for number, context in enumerate(contexts):
        if shots and context.pages:
            Path(shots).mkdir(parents=True, exist_ok=True)
            context.pages[0].screenshot(path=Path(shots) / f"{request.node.name}-{number}.png")
        context.close()
    assert complaints == []


def own(url: str, site: Site) -> bool:
    return url.startswith((site.address, "data:", f"blob:{site.address}"))
