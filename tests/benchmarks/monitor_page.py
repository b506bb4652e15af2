"""What the monitor's page costs in a browser: `python -m tests.benchmarks.monitor_page [--minutes 3]`.

A real hub, `bcaf-stream monitor` as a process of its own, and Debian's Chromium. First the journal holds a
thousand calls that are over: how soon the list and a call can be used. Then 200 live calls with one event a second
each: the share of a core that the page's main thread takes (its CPU time, not its waiting), tasks above 100 ms,
and the page's memory after its garbage was collected, a third of the time after the start and at the end.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub
from tests.browser import chromium, page_of
from tests.monitor_calls import MadeCall
from tests.monitor_site import MonitorProcess, ask, hub_config

LONG_MS = 100
TRACED_S = 20.0
LONG_TASKS = """
window.longTasks = []
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((one) => one.duration)))
  .observe({ type: "longtask", buffered: true })
"""


class Publisher:
    """Live calls, an event a second each, spread over the second."""

    def __init__(self, hub: EventHub, calls: int) -> None:
        self._hub, self._calls, self._ending = hub, calls, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        made = [MadeCall(f"live-{n:03}", seed=n) for n in range(self._calls)]
        self._hub.publish([one.start() for one in made]).result()
        going: list[Iterator[Event]] = [one.seconds() for one in made]
        due = time.monotonic()
        for events in cycle(going):
            due += 1 / self._calls
            if self._ending.wait(max(0.0, due - time.monotonic())):
                return
            self._hub.publish([next(events)])


class Meter:
    """Chromium's own measures of a page; `cpu_s` is CPU time of the main thread's tasks."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read(self) -> dict[str, float]:
        self._devtools.send("HeapProfiler.collectGarbage")
        metrics: dict[str, Any] = self._devtools.send("Performance.getMetrics")
        found = {one["name"]: one["value"] for one in metrics["metrics"]}
        return {
            "at_s": time.monotonic(),
            "cpu_s": found["TaskDuration"],
            "heap_mb": found["JSHeapUsedSize"] / 1e6,
            "nodes": found["Nodes"],
        }

    def long_tasks(self) -> list[float]:
        return [ms for ms in self._page.evaluate("longTasks.splice(0)") if ms > LONG_MS]


def tasks_ms(browser: Browser, page: Page, seconds: float) -> list[float]:
    """CPU time of each task of the page's main thread, from Chromium's trace: a busy machine does not count."""
    browser.start_tracing(page=page, categories=["toplevel", "__metadata"])
    time.sleep(seconds)
    events = json.loads(browser.stop_tracing())["traceEvents"]
    renderers = {
        (one["pid"], one["tid"])
        for one in events
        if one["name"] == "thread_name" and one["args"].get("name") == "CrRendererMain"
    }
    return [one["tdur"] / 1000 for one in events if (one["pid"], one["tid"]) in renderers and "tdur" in one]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1000, help="calls in the journal that are over")
    parser.add_argument("--live", type=int, default=200, help="live calls")
    parser.add_argument("--minutes", type=float, default=3.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        config = hub_config(Path(name))
        with EventHub(config) as hub:
            for n in range(asked.calls):
                hub.publish(MadeCall(f"over-{n:04}", seed=n).whole(8)).result()
            monitor = MonitorProcess(Path(name), config)
            try:
                _wait_for_all(monitor.address, asked.calls)
                with page_of(browser, "about:blank") as page:
                    page.add_init_script(LONG_TASKS)
                    _open(page, monitor.address, asked.calls)
                    with Publisher(hub, asked.live):
                        _watch(browser, page, asked.live, asked.minutes)
            finally:
                monitor.end()


def _wait_for_all(address: str, calls: int) -> None:
    deadline = time.monotonic() + 60
    while ask(address, f"/export?call=over-{calls - 1:04}&format=json").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _open(page: Page, address: str, calls: int) -> None:
    began = time.monotonic()
    page.goto(address)
    page.get_by_role("link", name=f"over-{calls - 1:04}", exact=True).click()
    listed_s = time.monotonic() - began
    expect(page.locator(".transcript li[data-key]")).to_have_count(8)
    print(f"{calls} calls in the journal: a call can be clicked after {listed_s:.2f} s,", end=" ")
    print(f"its words are there after {time.monotonic() - began:.2f} s")


def _watch(browser: Browser, page: Page, live: int, minutes: float) -> None:
    page.get_by_role("link", name="Calls", exact=True).click()
    rows = page.get_by_role("table", name="Live calls", exact=True).locator(".c-name a")
    expect(rows).to_have_count(live, timeout=30_000)
    meter = Meter(page)
    time.sleep(minutes * 20)
    first = meter.read()
    meter.long_tasks()  # those of the start, and of collecting the garbage
    time.sleep(minutes * 40)
    long_tasks = meter.long_tasks()
    last = meter.read()
    tasks = tasks_ms(browser, page, TRACED_S)
    share = (last["cpu_s"] - first["cpu_s"]) / (last["at_s"] - first["at_s"])
    print(f"{live} live calls, {minutes:g} minutes: main thread {share:.0%} of a core,", end=" ")
    print(f"tasks above {LONG_MS} ms by the clock: {[round(ms) for ms in long_tasks]},", end=" ")
    print(f"longest of {len(tasks)} in CPU time: {max(tasks):.0f} ms")
    for name, unit in (("heap_mb", "MB of heap"), ("nodes", "nodes")):
        print(f"  {first[name]:.1f} -> {last[name]:.1f} {unit}")


if __name__ == "__main__":
    main()
