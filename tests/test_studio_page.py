"""The studio's page, in a browser: what a person sees and does. `make test-web` installs what it needs, and requires it."""

import os
import shutil

import pytest
from test_studio_server import TOO_LONG, begun

NEEDED = "REVERIE_TEST_WEB" in os.environ
if not NEEDED:
    pytest.importorskip("playwright.sync_api", reason="no playwright: make test-web")
from playwright import sync_api  # noqa: E402

CHROMIUM = shutil.which("chromium")
if not CHROMIUM and not NEEDED:
    pytest.skip("no chromium: make test-web", allow_module_level=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    process, url = begun(tmp_path_factory.mktemp("studio"))
    yield url
    process.terminate()
    process.communicate(timeout=TOO_LONG)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as web:
        made = web.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser, address):
    """The page, which must do without any error of its own."""
    wrong = []
    made = browser.new_page(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(1000 * TOO_LONG)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    made.goto(address)
    made.locator("#solver option").nth(5).wait_for(state="attached")
    yield made
    made.close()
    assert not wrong


def make(page, **settings):
    for name, value in {"steps": 4, "count": 2, "seed": 7, **settings}.items():
        page.locator(f"#{name}").fill(str(value))
    page.get_by_role("button", name="Make").click()


def said(page, text):
    page.locator("#said", has_text=text).wait_for()


def test_a_picture_is_made_and_stays(page):
    before = page.locator("#gallery img").count()
    make(page)
    said(page, "done")
    assert page.locator("#gallery img").count() == before + 2
    page.reload()
    page.locator("#gallery img").nth(before + 1).wait_for()


def test_what_is_drawn_is_seen_and_can_be_cancelled(page):
    make(page, steps=300, count=8)
    page.locator("#now img").nth(7).wait_for()
    page.get_by_role("button", name="Cancel").click()
    said(page, "cancelled")
    assert page.locator("#now img").count() == 0


def test_a_page_that_is_opened_anew_goes_on_to_show_the_job(page):
    make(page, steps=300, count=4)
    page.locator("#now img").first.wait_for()
    page.reload()
    page.locator("#now img").first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    said(page, "cancelled")


def test_a_picture_gives_its_settings_back(page, tmp_path):
    make(page, steps=5, seed=11, count=1, prompt="a bald man", guidance=2.5)
    said(page, "done")
    url = page.locator("#gallery img").first.get_attribute("src")
    file = tmp_path / "a.png"
    file.write_bytes(page.request.get(page.url.rstrip("/") + url).body())
    page.locator("#prompt").fill("something else")
    page.locator("#steps").fill("9")
    page.locator("#dropped").set_input_files(file)
    said(page, "these are its settings")
    assert [page.locator(f"#{n}").input_value() for n in ("prompt", "steps", "seed", "guidance")] == [
        "a bald man",
        "5",
        "11",
        "2.5",
    ]


def test_what_is_wrong_is_said(page):
    make(page, width=50)
    page.locator("#said.wrong", has_text="multiple").wait_for()
