"""A 3-D model in the large view shows the angle that was found, and the others below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
pytest.importorskip("trimesh")

import trimesh
from playwright.sync_api import expect

import clipsearch
from tests.browser.axe import axe_findings
from tests.browser.conftest import PATIENCE_MS, Open, Site
from tests.browser.test_page import PHONE, until
from tests.browser.test_viewer import running
from tests.support.fake_encoder import COLOURS, FakeEncoder
from tests.support.pictures import picture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE_MS)

SHOWN = "document.querySelector('.pswp__item[aria-hidden=false] .pswp__img:not(.pswp__img--placeholder)')"


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    photos = tmp_path_factory.mktemp("modelled") / "photos"
    photos.mkdir()
    ring, plate = trimesh.creation.torus(1, 0.4), trimesh.creation.box((3, 3, 0.3))
    plate.apply_translation((0, 0, -0.6))
    ring.visual.face_colors, plate.visual.face_colors = [*COLOURS["red"], 255], [*COLOURS["blue"], 255]
    trimesh.Scene([ring, plate]).export(photos / "ring.glb")
    picture(1).save(photos / "other.jpg")
    with running([clipsearch.index(photos, encoder=FakeEncoder()).index]) as site:
        yield site


@pytest.mark.parametrize("window", [{}, {**PHONE, "color_scheme": "dark"}], ids=["desktop", "phone"])
def test_the_angle_that_was_found_is_shown_and_others_can_be(
    open_page: Open, modelled: Site, window: dict[str, Any]
) -> None:
    page = open_page("/?q=ext:glb&all=1", at=modelled, **window)
    expect(page.locator(".cs-tile[data-n='0'] .cs-moment")).to_have_text("3D")
    expect(page.locator(".cs-tile[data-n='0'] img")).to_have_js_property("complete", True)
    page.click(".cs-tile[data-n='0']")
    angles = page.locator(".cs-shot")
    expect(angles).to_have_count(8)
    expect(page.locator(".cs-shots")).to_have_attribute("aria-label", "Angles of the 3-D model")
    expect(angles.nth(4)).to_have_attribute("title", "Show angle 5")
    until(page, f"{SHOWN}?.complete && {SHOWN}.naturalWidth > 0")
    expect(page.locator(".cs-facts dt:text-is('Format') + dd")).to_have_text("3-D model (GLB)")
    before = page.evaluate(f"{SHOWN}.src")
    angles.nth(4).click()
    expect(angles.nth(4)).to_have_attribute("aria-current", "true")
    until(page, f"{SHOWN}?.complete && {SHOWN}.src !== '{before}' && {SHOWN}.naturalWidth === {SHOWN}.naturalHeight")
    until(page, "[...document.querySelectorAll('.cs-shot img')].every(one => one.complete && one.naturalWidth > 0)")
    assert axe_findings(page, "angles of a model") == []
