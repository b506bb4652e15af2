"""A real Chromium for tests of pages: Debian's, driven by playwright; an error that a page logs fails its test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.components import require

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
EXPECTED = "Failed to load resource", "net::ERR"  # what the browser itself says of a server that was killed


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a window."""
    require("chromium")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page with nothing of an earlier one; it fails where a script fails or the policy forbids something."""
    options.setdefault("viewport", {"width": 1280, "height": 860})
    context = browser.new_context(**options)
    context.set_default_timeout(10_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda said: (
            faults.append(said.text)
            if said.type == "error" and not any(known in said.text for known in EXPECTED)
            else None
        ),
    )
    try:
        page.goto(address)
        yield page
        assert not faults, faults
    finally:
        context.close()


def assert_accessible(page: Page) -> None:
    """WCAG 2.2 AA, as far as axe can tell."""
    found = Axe().run(page, options=RULES).response["violations"]
    if found:
        told = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
        pytest.fail(f"axe: {told}")
