"""The page of a run with 100,000 lines of metrics: how long the server takes, and when a browser shows the page.

    python -m bench.studio [--lines 100000] [--runs 5] [--output FILE]

Each of --runs starts a new ``concordant studio``, so that nothing is read yet, and asks for one chart: the *cold*
answer, for which the whole file is read. The same chart once more, other charts, and a chart after 100 new lines are
*warm*. Then a browser without a cache (Debian's chromium, by playwright) opens the page of the run at another new
server: the first paint is the browser's own ``first-contentful-paint``; "all curves" is the time until the last
chart is drawn. All times are milliseconds, medians over --runs, with the greatest in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from bench.drive import Others, processor
from concordant.studio.charts import CHARTS

RUN = "long"
STATUS = {"verb": "ppo", "state": "running", "step": 0, "total": 0, "message": "", "pid": os.getpid(), "host": "bench"}


def main(arguments: list[str]) -> None:
    args = parse(arguments)
    others, found = Others(), []
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place) / RUN
        write(folder, 0, args.lines)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for _ in range(args.runs):
            with studio(Path(place)) as address:
                one = answers(address, folder, args.lines)
            with studio(Path(place)) as address:
                one |= paints(browser, address)
            found.append(one)
        size = (folder / "metrics.jsonl").stat().st_size
        browser.close()
    record = {
        "lines": args.lines,
        "megabytes": round(size / 1e6, 1),
        "busy": others.note(),
        "processor": processor(),
        "milliseconds": {
            key: {"median": statistics.median(one[key] for one in found), "greatest": max(one[key] for one in found)}
            for key in found[0]
        },
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for key, row in record["milliseconds"].items():
        print(f"{key}: {row['median']:.0f} ({row['greatest']:.0f}) ms")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    results = Path(__file__).parent / "results" / processor()
    parser.add_argument("--output", type=Path, default=results / "studio.json")
    return parser.parse_args(arguments)


def write(folder: Path, first: int, count: int) -> None:
    """Add ``count`` lines with every metric of a chart, as a run of PPO writes them; an evaluation each 100 steps."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("verb: ppo\nseed: 0\n", encoding="utf-8")
    status = STATUS | {"step": first + count, "total": 2 * (first + count)}
    (folder / "status.json").write_text(json.dumps(status), encoding="utf-8")
    names = sorted({name for chart in CHARTS for name in (*chart.metrics, chart.x)} - {"step"})
    values = np.random.default_rng(first).normal(size=(count, len(names))).cumsum(0) / 100
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for step, row in enumerate(values.tolist(), first + 1):
            given = {k: v for k, v in zip(names, row, strict=True) if step % 100 == 0 or not k.startswith("eval/")}
            file.write(json.dumps({"step": step, "time": 1.7e9 + step} | given) + "\n")


@contextmanager
def studio(runs: Path) -> Iterator[str]:
    """A new server over ``runs``: the link that it prints."""
    command = [sys.executable, "-m", "concordant", "studio", "--runs", str(runs), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if link := re.search(r"http://\S+", line):
                break
        else:
            raise SystemExit("the studio did not start")
        asked(f"{link[0].partition('enter')[0]}api/openapi.json")  # the server answers
        yield link[0]
    finally:
        process.terminate()
        process.wait()


def answers(address: str, folder: Path, lines: int) -> dict[str, float]:
    """How long the server takes for a chart: cold, again, for all other charts (the slowest), and after new lines."""
    root = address.partition("enter")[0]

    def chart(metrics: tuple[str, ...], x: str = "step") -> float:
        query = "&".join([f"run={RUN}", *(f"metric={m}" for m in metrics), f"x={x}", "points=800", "smoothing=0.9"])
        return asked(f"{root}api/curves?{query}")

    cold, again = chart(CHARTS[1].metrics), chart(CHARTS[1].metrics)
    others = max(chart(one.metrics, one.x) for one in CHARTS)
    write(folder, lines, 100)
    return {"cold": cold, "the same again": again, "slowest other chart": others, "after 100 lines": chart(("loss",))}


def asked(address: str) -> float:
    """Milliseconds until the whole answer is there."""
    start = time.perf_counter()
    with urllib.request.urlopen(address, timeout=60) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - start)


def paints(browser: Browser, address: str) -> dict[str, float]:
    """When the browser shows something of the page of the run, and when all of its curves are drawn."""
    context = browser.new_context()
    page = context.new_page()
    root = address.partition("enter")[0]
    page.goto(address)  # takes the token
    page.wait_for_url(root)
    start = time.perf_counter()
    page.goto(f"{root}run?run={RUN}")
    page.locator(".chart.js-plotly-plot").nth(len(CHARTS) - 1).wait_for(timeout=60_000)
    drawn = 1000 * (time.perf_counter() - start)
    first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return {"first paint": float(first), "all curves": drawn}


if __name__ == "__main__":
    main(sys.argv[1:])
