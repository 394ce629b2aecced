"""A real browser: every page that a test opens must write nothing to its console and ask the network for nothing."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = (
    "--no-sandbox",
    # WebGL without a graphics card; the second says that the pages are trusted, without it there is none
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
)

PATIENCE = 90_000
"""Milliseconds for what takes some: a busy machine without a graphics card."""

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""Where tests keep their pictures; git ignores the folder."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium by Playwright; where there is none tests are skipped, but in CI they fail.

    One a module: as long as Playwright runs, nothing else in the process can run an event loop.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="the tests of pages need playwright")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        message = "no Chromium here: apt-get install chromium, or name one in $CHROMIUM"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page: `opened(path or url, width=..., height=..., script=..., **context)`; checks console and requests.

    A file may ask for nothing but itself and say nothing, the page of a server on this machine for anything of that
    server. Of Prefect's pages two things are known and let pass, see `_of_prefect`.
    """
    said: list[str] = []
    contexts = []

    def open_page(target: Path | str, width: int = 1000, height: int = 800, script: str = "", **facts: Any) -> Any:
        address = target.as_uri() if isinstance(target, Path) else target
        server = "{0.scheme}://{0.netloc}/".format(urlsplit(address))
        allowed = (address,) if isinstance(target, Path) else (server, f"blob:{server}", "data:")
        context = browser.new_context(viewport={"width": width, "height": height}, **facts)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: None if _of_prefect(message) else said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on(
            "request", lambda asked: None if asked.url.startswith(allowed) else said.append(f"request: {asked.url}")
        )
        if script:
            page.add_init_script(script)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def _of_prefect(message: Any) -> bool:
    """Icons that its pages lack, and a remark on the speed of WebGL without a graphics card."""
    url = str(message.location.get("url"))
    return "/ico/" in url or url.endswith("/favicon.ico") or ("GPU stall" in message.text and "/flow-run/" in url)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder for pictures."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
