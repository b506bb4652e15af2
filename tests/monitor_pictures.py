"""The README's two pictures of the monitor, made again from made calls: `python -m tests.monitor_pictures`.

The calls are nobody's: their words, moods and gaps stand below, and their alerts are what the shipped rules say.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Page, expect

from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub
from tests.browser import chromium, page_of
from tests.components import ROOT
from tests.monitor_calls import MadeCall, raised
from tests.monitor_site import hub_address, hub_config, serving

FOLDER = ROOT / "bcaf_stream" / "demo"
LIST, CALL = FOLDER / "monitor_calls.png", FOLDER / "monitor_call.png"
WINDOW = {"width": 1280, "height": 720}
AGENT, CUSTOMER = "right", "left"


class Line(NamedTuple):
    channel: str
    mood: str
    sure: float
    words: str


TWICE = (
    Line(AGENT, "neutral", 0.83, "Thank you for calling Northline Internet. How can I help you?"),
    Line(CUSTOMER, "neutral", 0.64, "Hi. My internet has been down since Monday."),
    Line(AGENT, "neutral", 0.79, "I can look into that. A technician came on Tuesday."),
    Line(CUSTOMER, "surprise", 0.58, "Nobody came on Tuesday. I was at home all day."),
    Line(AGENT, "neutral", 0.71, "I see the repair was charged to your account. Twice."),
    Line(CUSTOMER, "anger", 0.78, "Twice? For somebody who was never here?"),
    Line(CUSTOMER, "anger", 0.86, "I have been on this phone for an hour, and I pay for nothing."),
    Line(AGENT, "sadness", 0.41, "I am sorry about that. Let me see what I can do."),
    Line(CUSTOMER, "anger", 0.84, "That is what your colleague said last week."),
    Line(CUSTOMER, "disgust", 0.76, "It is a disgrace how you treat people."),
    Line(AGENT, "neutral", 0.69, "Both charges are taken back, and I will send somebody today."),
)
OTHERS = {  # moods of the customer, one after the other, and what is said last
    "claims-2207": ("neutral fear sadness sadness", "It was my mother's house, and nothing is left of it."),
    "billing-0913": ("neutral neutral surprise fear fear", "I am afraid that they will cut the power off."),
    "support-5581": ("anger anger anger neutral surprise", "Oh, it works again? I did nothing at all."),
    "support-5590": ("neutral sadness neutral neutral", "The little light on the left is green now."),
    "sales-1204": ("neutral surprise joy joy", "That is wonderful, thank you so much."),
    "sales-1206": ("neutral neutral", "And how long does the contract run?"),
}
OVER = {"support-5544": "joy", "billing-0907": "neutral", "claims-2198": "sadness"}


def main() -> None:
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        config = hub_config(Path(name))
        with EventHub(config) as hub, serving(Path(name), hub_address(config)) as monitor:
            for events in (*_over(), *_others(), angry()):
                hub.publish(events).result()
            _take(browser, monitor.address, LIST, _list_is_there)
            _take(browser, f"{monitor.address}#/call/billing-0918?t=23000", CALL, _call_is_there)
    for picture in (LIST, CALL):
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size / 1000:.0f} kB")


def angry() -> list[Event]:
    """The call that needs somebody: a revision, a gap, an alert, and somebody who is speaking."""
    made = MadeCall("billing-0918", began=_ago(47_000))
    said = [made.start()]
    for n, line in enumerate(TWICE):
        said.append(made.say(line.channel, line.words, 1200 + 45 * len(line.words), line.mood, line.sure))
        if n == 4:
            said.append(made.gap(CUSTOMER, 900))
        if n == 8:
            words = "That is what your colleague told me last week."
            said.append(made.revise(said[-1], words, "anger"))
    start_ms = made.now_ms + 400
    said.append(made.interim(CUSTOMER, start_ms, start_ms + 2500, "neutral"))
    return [*said, *raised(made, said)]


def _others() -> list[list[Event]]:
    calls = []
    for seed, (name, (moods, words)) in enumerate(OTHERS.items()):
        felt = [mood for mood in moods.split() for _ in range(6)]
        made = MadeCall(name, began=_ago(len(felt) * (3_200 + 3_700)), seed=seed)
        said = [made.start()]
        for n, mood in enumerate(felt):
            said.append(made.say(AGENT, ms=3_000, mood="neutral", sure=0.8))
            said.append(made.say(CUSTOMER, words, 3_500, mood, 0.74 - 0.05 * (n % 4)))
        if name == "support-5581":
            said.append(made.gap(CUSTOMER, 1_200))
        calls.append([*said, *raised(made, said)])
    return calls


def _over() -> list[list[Event]]:
    calls = enumerate(OVER.items())
    return [MadeCall(name, _ago((n + 2) * 600_000), n, mood).whole(9) for n, (name, mood) in calls]


def _ago(ms: int) -> int:
    return time.time_ns() - ms * 10**6


def _take(browser: Browser, address: str, picture: Path, is_there: Callable[[Page], None]) -> None:
    with page_of(browser, address, viewport=WINDOW, color_scheme="light") as page:
        is_there(page)
        page.screenshot(path=picture)


def _list_is_there(page: Page) -> None:
    expect(page.get_by_role("table", name="Live calls", exact=True).locator(".c-name a")).to_have_count(7)


def _call_is_there(page: Page) -> None:
    expect(page.locator(".transcript li[data-selected=true]")).to_be_visible()


if __name__ == "__main__":
    main()
