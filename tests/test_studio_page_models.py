"""The page of models, in a browser: an album is made, a LoRA learns from it, pauses, goes on, and is there to draw with."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from test_studio_page import TOO_LONG, address, browser  # noqa: F401  fixtures


def png(k):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def page(browser, address):  # noqa: F811
    wrong = []
    made = browser.new_page(viewport={"width": 1280, "height": 1000})
    made.set_default_timeout(1000 * TOO_LONG)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    made.goto(f"{address}models.html")
    made.locator("#models tbody tr").nth(1).wait_for()
    yield made
    made.close()
    assert not wrong


def said(page, text):
    page.locator("#said", has_text=text).wait_for()


def test_models_are_told_of(page):
    row = page.locator("#models tbody tr", has_text="reverie-avatars").first
    assert "64 x 64" in row.inner_text() and "MB" in row.inner_text()


def test_a_lora_learns_pauses_and_goes_on(page, address):  # noqa: F811
    page.locator("#estimate").click()
    said(page, "no album yet")
    page.locator("#files").set_input_files([{"name": f"{k}.png", "mimeType": "image/png", "buffer": png(k)} for k in range(3)])
    page.locator("#name").fill("my cats")
    page.get_by_role("button", name="Put them in").click()
    said(page, "my cats holds 3 pictures")
    page.locator("#batch").fill("2")
    page.locator("#minutes").fill("0.1")
    page.get_by_role("button", name="Estimate").click()
    said(page, "a step takes")
    page.locator("#minutes").fill("5")
    page.get_by_role("button", name="Learn").click()
    said(page, re.compile(r"step \d+ of"))
    page.get_by_role("button", name="Pause").click()
    said(page, "paused")
    page.reload()
    said(page, "paused")
    page.get_by_role("button", name="Go on").click()
    said(page, "loss")
    page.get_by_role("button", name="Cancel").click()
    said(page, "cancelled")
    page.locator("#minutes").fill("0.1")
    page.get_by_role("button", name="Learn").click()
    said(page, "my cats is there to draw with")
    page.locator("#curve polyline").first.wait_for(state="attached")
    page.locator("#preview").wait_for()
    assert "reverie-avatars" in page.locator("#loras tbody tr", has_text="my cats").inner_text()
