"""Make the pictures of the page in the README: docs/ui.jpg and docs/ui-phone.jpg.

The photographs are those of scikit-image's wheel that are in the public domain or CC0 (see skimage/data/_fetchers.py).
Needs the dev extra and Chromium: python -m scripts.ui_screenshots
"""

from __future__ import annotations

import io
import shutil
import socket
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import clipsearch
from clipsearch.server.app import create_app
from clipsearch.ui.page import add_page

FREE = """
astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png grass.png gravel.png horse.png
hubble_deep_field.jpg microaneurysms.png moon.png retina.jpg rocket.jpg text.png
"""
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
DOCS = Path(__file__).parent.parent / "docs"
QUALITY = 82
LARGE = ".pswp__item[aria-hidden=false] .pswp__img:not(.pswp__img--placeholder)"


def main() -> None:
    skimage = find_spec("skimage")
    assert skimage is not None
    assert skimage.origin is not None
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for name in FREE.split():
            shutil.copy(Path(skimage.origin).parent / "data" / name, photos / name)
        index = clipsearch.index(photos, model="builtin").index
        with socket.create_server(("127.0.0.1", 0)) as listening, sync_playwright() as playwright:
            server = uvicorn.Server(uvicorn.Config(create_app([index], interface=add_page), log_level="warning"))
            thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
            thread.start()
            while not server.started:
                time.sleep(0.05)
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=SWITCHES, timeout=120_000
            )
            for query in ("dog", "bird"):  # what is slow once
                httpx.post(f"{address}/v1/gallery", json={"query": query}, timeout=120)
            save(browser, f"{address}/?q=a+cat&all=1", DOCS / "ui.jpg", wide=True)
            save(browser, f"{address}/?q=", DOCS / "ui-phone.jpg", wide=False)
            browser.close()
            server.should_exit = True
            thread.join(20)


def save(browser: Browser, address: str, file: Path, *, wide: bool) -> None:
    """Save what a person sees at an address. `wide`: with its first picture large, else on a phone, dark."""
    screen: dict[str, Any] = {"viewport": {"width": 1280, "height": 760}}
    if not wide:
        screen = {"viewport": {"width": 390, "height": 760}, "color_scheme": "dark", "device_scale_factor": 1.5}
        screen |= {"is_mobile": True, "has_touch": True}
    context = browser.new_context(**screen)
    page = context.new_page()
    page.goto(address, timeout=120_000)
    page.wait_for_selector(".cs-tile.cs-loaded[data-n='0']", timeout=120_000)
    if wide:
        page.click(".cs-tile[data-n='0']")
        page.wait_for_selector(LARGE, timeout=60_000)
    page.wait_for_timeout(5000)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(file, quality=QUALITY, optimize=True)
    context.close()


if __name__ == "__main__":
    main()
