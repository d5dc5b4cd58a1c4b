"""Every page of the studio, read by axe as those see it who do not: light and dark, on a desk and on a phone.

`make test-web` fetches axe-core; where it is not there, this is skipped.
"""

import os
from pathlib import Path

import pytest

import reverie

if "REVERIE_TEST_WEB" not in os.environ:
    pytest.importorskip("playwright.sync_api", reason="no playwright: make test-web")
from test_studio_page import TOO_LONG, address, browser  # noqa: F401  fixtures

ROOT = Path(__file__).parent.parent
AXE = ROOT / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
if "REVERIE_TEST_WEB" not in os.environ and not AXE.exists():
    pytest.skip("no axe-core: make test-web", allow_module_level=True)
PAGES = sorted((Path(reverie.__file__).parent / "studio" / "page").glob("*.html"))
GRAVE = ("serious", "critical")


def violations(page):
    """What axe finds, with the parts of the page that have it."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document)")["violations"]
    return [(one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("file", PAGES, ids=lambda path: path.stem)
def test_nothing_grave_is_found(file, width, scheme, browser, address):  # noqa: F811
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(1000 * TOO_LONG)
    page.goto(f"{address}{file.name}", wait_until="networkidle")
    page.locator("#rooms a").nth(2).wait_for()
    assert not [one for one in violations(page) if one[1] in GRAVE]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no page is wider than its window"
    page.close()


def test_axe_sees(browser):  # noqa: F811
    """A page with a field without a name: else all of the above would pass."""
    page = browser.new_page()
    page.set_content("<html lang=en><title>a</title><main><h1>a</h1><input></main>")
    assert [one[0] for one in violations(page) if one[1] in GRAVE] == ["label"]
    page.close()
