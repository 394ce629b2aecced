"""The report of many runs: how large it is, how long it takes to write, and to open in a browser.

    python tests/benchmarks/report.py RUN... --runs 20

Makes that many runs of the given ones, which differ in their learning rate alone, so that nothing is pooled: the worst
case.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from flows.pages.report import write_report

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]
OPENED = 5
"""Times that the page is opened; each in a new context, so that nothing is cached."""


def copies(runs: list[Path], count: int, folder: Path) -> list[Path]:
    """`count` runs; of each all but the configuration is a link."""
    made = []
    for number in range(count):
        source = runs[number % len(runs)].absolute()
        copy = folder / f"run-{number:02d}"
        copy.mkdir()
        for path in source.iterdir():
            if path.name not in ("config.json", "report.html", ".lock"):
                (copy / path.name).symlink_to(path)
        config = json.loads((source / "config.json").read_text())
        config["train"]["lr"] *= 1 + number / 1000
        (copy / "config.json").write_text(json.dumps(config))
        made.append(copy)
    return made


def opening(page_file: Path) -> list[float]:
    """Seconds from the request to the end of loading, and until the first table can be seen."""
    seconds = []
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for _ in range(OPENED):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            begun = time.perf_counter()
            page.goto(page_file.as_uri())
            page.locator("#benchmark table").first.wait_for()
            seconds.append(time.perf_counter() - begun)
            page.context.close()
        browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="+", help="scored runs")
    parser.add_argument("--runs", type=int, default=20, help="of the report")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        made = copies(options.run, options.runs, Path(folder))
        begun = time.perf_counter()
        page = write_report(made, Path(folder) / "report.html")
        print(
            f"{options.runs} runs: written in {time.perf_counter() - begun:.0f} s, {page.stat().st_size / 1e6:.1f} MB"
        )
        seconds = opening(page)
        print(f"opened in {statistics.median(seconds):.2f} s (median of {OPENED}; slowest {max(seconds):.2f} s)")


if __name__ == "__main__":
    main()
