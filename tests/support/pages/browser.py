"""A headless Chromium for tests of pages: what is on the machine, found by its usual names."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def chromium() -> str:
    """Return the browser; skip where there is none, or fail if REQUIRE_BROWSER=1."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        missing = f"none of {', '.join(_NAMES)} is on this machine"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a browser of Playwright."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        try:
            yield running
        finally:
            running.close()


class Page:
    """A page that was opened from a file, with all that it asked for and complained about.

    Args:
        browser: of Playwright.
        file: the page.
        options: of the context, for example `color_scheme` and `viewport`.
    """

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._asked)
        self.page.goto(file.absolute().as_uri())
        self.page.wait_for_selector("html[data-ready=yes]", timeout=30_000)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def count(self, selector: str) -> int:
        """Return how many elements there are."""
        found: int = self.page.locator(selector).count()
        return found

    def texts(self, selector: str) -> list[str]:
        """Return the texts of elements."""
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found
