"""The monitor's page in a real Chromium, over a real hub: by pointer and by keyboard, light and dark."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub
from bcaf_stream.evidence import CallRecorder
from bcaf_stream.report import CallReport, call_page
from bcaf_stream.types import AudioChunk, Call, Channel
from tests.browser import assert_accessible, chromium, page_of
from tests.components import needs
from tests.monitor_calls import MadeCall, raised
from tests.monitor_site import MonitorProcess, hub_address, hub_config, serving
from tests.waiting import until

pytestmark = needs("chromium")

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "\u202egnp.exe ltr \u05e9\u05dc\u05d5\u05dd",
    "long-" + "x" * 180,
    "a/b?c=d#e%2F&f g\u2028h",
)
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true })
  document.dispatchEvent(new Event("visibilitychange"))
}"""
LINES = """e => {
  const range = document.createRange()
  range.selectNodeContents(e)
  return range.getClientRects().length
}"""
WIDEST_TABLE = "Math.max(...[...document.querySelectorAll('table')].map((t) => t.getBoundingClientRect().right))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class Site:
    def __init__(self, hub: EventHub, address: str) -> None:
        self.hub, self.address = hub, address

    def publish(self, *events: Event) -> None:
        self.hub.publish(list(events)).result()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("monitor")
    config = hub_config(folder)
    with EventHub(config) as hub, serving(folder, hub_address(config)) as monitor:
        yield Site(hub, monitor.address)


def live(name: str, mood: str, utterances: int = 4, **of: object) -> MadeCall:
    """A call whose last words were said just now."""
    return MadeCall(name, began=time.time_ns() - (utterances * 1700 + 500) * 10**6, mood=mood, **of)


def spoken(made: MadeCall, utterances: int = 4) -> list[Event]:
    return [made.start(), *(made.say("left" if n % 2 else "right") for n in range(utterances))]


def names(page: Page, table: str = "Live calls") -> list[str]:
    return page.get_by_role("table", name=table, exact=True).locator(".c-name a").all_text_contents()


def test_live_calls_are_ranked_by_negative_mass_and_rest_under_the_pointer(browser: Browser, site: Site):
    calm, angry, late = live("rank-calm", "joy"), live("rank-angry", "anger"), live("rank-late", "sadness")
    site.publish(*spoken(calm), *spoken(angry), *MadeCall("rank-over", mood="joy").whole())
    with page_of(browser, f"{site.address}#/?text=rank-") as page:
        rows = page.get_by_role("table", name="Live calls", exact=True).locator(".c-name a")
        expect(rows).to_have_text(["rank-angry", "rank-calm"])
        assert names(page, "Calls that are over") == ["rank-over"]
        expect(page.locator(".c-mass .mass").first).to_have_text(re.compile(r"\d+ %"))
        trough = page.locator(".meter .trough").first
        assert trough.evaluate("e => e.getBBox().width") == 100, "the bar is not of its whole"
        rows.nth(1).hover()
        expect(page.get_by_text("The order rests while you are in the list.")).to_be_visible()
        site.publish(*spoken(late))
        expect(rows).to_have_text(["rank-angry", "rank-calm", "rank-late"])
        page.mouse.move(5, 5)
        expect(rows).to_have_text(["rank-angry", "rank-late", "rank-calm"])
        page.get_by_role("button", name="Pause updates").click()
        site.publish(*spoken(live("rank-paused", "anger")))
        expect(page.get_by_text(re.compile("calls have changed meanwhile"))).to_be_visible()
        assert "rank-paused" not in names(page)
        page.get_by_role("button", name="Go on with updates").click()
        expect(page.get_by_role("link", name="rank-paused")).to_be_visible()


def test_a_call_is_seen_as_it_goes_on_with_its_revisions_and_gaps(browser: Browser, site: Site):
    made = live("seen", "joy")
    events = spoken(made)
    site.publish(*events)
    with page_of(browser, f"{site.address}#/call/seen") as page:
        said = page.locator(".transcript li[data-key]")
        expect(said).to_have_count(4)
        site.publish(made.interim("left", 9000, 9600))
        expect(page.locator(".transcript .st-interim")).to_have_count(1)
        final = made.say("right", "nobody calls me back", mood="anger")
        site.publish(final, made.gap("right"), made.revise(final, "somebody calls me back", mood="joy"))
        revised = page.locator(".transcript .st-revised")
        expect(revised.locator("del")).to_contain_text("nobody")
        expect(revised.locator("ins")).to_contain_text("somebody")
        expect(revised).to_contain_text("was anger")
        expect(page.locator(".transcript .mark")).to_contain_text("0.7 s of sound are missing")
        revised.get_by_role("button").click()
        table = page.get_by_role("table", name="Probabilities")
        expect(table.locator("tr.chosen")).to_contain_text("joy")
        expect(table.get_by_role("columnheader")).to_have_text(["emotion", "together", "sound", "words"])
        assert f"t={final.start_ms}" in page.url
        moment = page.url
    with page_of(browser, moment) as page:
        expect(page.locator(".transcript li[data-selected=true]")).to_contain_text("somebody calls me back")
        assert page.evaluate("scrollY") == 0, "a link to a moment scrolls the list of words, not the page"


def test_a_finished_call_is_replayed_through_the_same_view(browser: Browser, site: Site):
    made = MadeCall("replayed", began=time.time_ns() - 3600 * 10**9)
    site.publish(*made.whole(40))
    with page_of(browser, f"{site.address}#/call/replayed") as page:
        said = page.locator(".transcript li[data-key]")
        expect(said).to_have_count(40)
        scrubber = page.get_by_role("slider", name="Time in the call")
        scrubber.fill("0")
        expect(said).to_have_count(0)
        page.get_by_role("button", name="16×").click()
        expect(said).not_to_have_count(0)
        assert said.count() < 40
        page.get_by_role("button", name="Pause").click()
        stands = scrubber.input_value()
        expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
        page.get_by_role("button", name="End", exact=True).click()
        expect(said).to_have_count(40)
        assert float(scrubber.input_value()) > float(stands)


@pytest.mark.parametrize("name", HOSTILE, ids=["script", "image", "rtl", "long", "url"])
def test_names_and_words_are_text(browser: Browser, site: Site, name: str):
    made = live(name, "fear")
    site.publish(made.start(), made.say(words=name), made.degraded(name))
    with page_of(browser, site.address) as page:
        row = page.locator(".c-name a").and_(page.get_by_role("link", name=name, exact=True))
        row.click()
        expect(page.locator("h1")).to_have_text(name)
        expect(page.locator(".transcript li[data-key] .words")).to_have_text(name)
        assert "owned" not in page.title().split(" · ")[-1]
        assert page.locator("main script, main img").count() == 0
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"the page is {wide} px wider than its window"


def test_two_hundred_calls(browser: Browser, site: Site):
    for n in range(200):
        made = live(f"many-{n:03}", "anger" if n == 137 else "joy", 2, seed=n)
        site.publish(*spoken(made, 2))
    with page_of(browser, f"{site.address}#/?text=many-") as page:
        expect(page.get_by_role("table", name="Live calls", exact=True).locator(".c-name a")).to_have_count(200)
        expect(page.locator(".c-name a").first).to_have_text("many-137")
        page.get_by_label("Emotion now").select_option("anger")
        expect(page.get_by_role("table", name="Live calls", exact=True).locator(".c-name a")).to_have_count(1)


def test_alerts_are_told_acknowledged_muted_and_taken_back(browser: Browser, site: Site):
    made = MadeCall("alerted", began=time.time_ns() - 30 * 10**9, mood="anger")
    said = [made.start(), *(made.say("left", words=f"so bad {n}", ms=3000) for n in range(8))]
    site.publish(*said, *raised(made, said))
    with page_of(browser, site.address) as page:
        page.get_by_role("button", name=re.compile("Alerts: 1 firing")).click()
        tray = page.get_by_role("complementary", name="Alerts")
        alert = tray.get_by_role("listitem").filter(has_text="CustomerAngerSustained")
        expect(alert).to_contain_text("firing")
        expect(alert).to_contain_text("customer: anger and disgust")
        assert_accessible(page)
        alert.get_by_role("button", name="Mute").click()
        expect(tray).to_contain_text("CustomerAngerSustained is muted until")
        tray.get_by_role("button", name="Hear it again").click()
        expect(page.get_by_role("button", name=re.compile("Alerts: 1 firing"))).to_be_visible()
        alert.get_by_role("button", name="Acknowledge").click()
        expect(alert).to_contain_text("Acknowledged by local")
        expect(page.get_by_role("button", name="Alerts", exact=True)).to_be_visible()
        alert.get_by_role("link").filter(has_text=re.compile(r"^\d+:\d\d")).first.click()
        expect(page.locator(".transcript li[data-selected=true]")).to_contain_text("so bad")
        told = [*said, *(made.revise(one, "all is well", mood="joy") for one in said[1:])]
        taken_back = [one for one in raised(made, told) if one.state == "retracted"]
        assert taken_back
        site.publish(*told[len(said) :], *taken_back)
        expect(alert).to_contain_text("retracted")
        expect(alert).to_contain_text("a revision took the evidence away")


def test_a_click_on_an_utterance_plays_it_and_is_an_audit_line(browser: Browser, tmp_path: Path):
    config = hub_config(tmp_path)
    sound, made = config.journal.sound_folder, live("played", "anger")
    sound.mkdir()
    recorder = CallRecorder(
        sound, Call(made.name, (Channel("left", "customer"),)), ("customer",), lambda job: job(), pytest.fail
    )
    recorder.push(AudioChunk("left", 0, 8000, np.zeros(8 * 8000, np.int16)))
    recorder.close()

    def plays() -> list[tuple[str, int]]:
        lines = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
        return [(line["channel"], line["utterance"]) for line in lines if line["action"] == "play"]

    with EventHub(config) as hub, serving(tmp_path, hub_address(config), sound=sound) as monitor:
        hub.publish(spoken(made)).result()
        with page_of(browser, f"{monitor.address}#/call/played") as page:
            said = page.locator(".transcript li[data-key]")
            expect(said).to_have_count(4)
            said.nth(1).locator(".words").click()
            button = page.get_by_role("button", name="Stop sound")
            expect(button).to_be_visible()
            expect(page.get_by_role("button", name="Play sound")).to_be_visible()  # when it is over
            assert plays() == [("left", 0)]
            said.nth(0).locator(".words").click()
            expect(page.get_by_text("Not played: no sound of this utterance is kept.")).to_be_visible()
            page.get_by_role("button", name="Click plays").click()
            said.nth(3).locator(".words").click()
            expect(page.get_by_role("button", name="Play sound")).to_be_visible()
            assert plays() == [("left", 0)]
            page.keyboard.press("p")
            expect(button).to_be_visible()
            until(lambda: plays() == [("left", 0), ("left", 1)])
            page.keyboard.press("p")
            expect(button).to_be_hidden()
            assert_accessible(page)


def test_everything_by_the_keyboard(browser: Browser, site: Site):
    site.publish(*MadeCall("keys", mood="joy").whole(6))
    with page_of(browser, f"{site.address}#/?text=keys") as page:
        expect(page.get_by_role("link", name="keys", exact=True)).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "keys":
                break
        expect(page.get_by_role("link", name="keys", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        said = page.locator(".transcript li[data-key]")
        expect(said).to_have_count(6)
        page.keyboard.press("Home")
        expect(said.first.get_by_role("button")).to_be_focused()
        page.keyboard.press("j")
        expect(said.nth(1)).to_have_attribute("data-selected", "true")
        page.keyboard.press("End")
        expect(said.last).to_have_attribute("data-selected", "true")
        page.locator("main").focus()
        page.keyboard.press("]")
        page.keyboard.press(" ")
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        page.keyboard.press("l")
        expect(page.get_by_role("button", name="End", exact=True)).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        expect(page.get_by_label("Words, by their beginnings")).to_be_focused()
        page.keyboard.type("hel")
        page.keyboard.press("Enter")
        expect(page.locator(".hits li").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, site: Site, scheme: str):
    made = live("axe", "anger", 3)
    final = made.say(words="as it was heard", mood="sadness")
    site.publish(*spoken(made, 7), final, made.gap(), made.revise(final, "as it was said"), made.degraded("slow"))
    with page_of(browser, f"{site.address}#/?text=axe", color_scheme=scheme) as page:
        expect(page.get_by_role("link", name="axe", exact=True)).to_be_visible()
        assert_accessible(page)
        page.goto(f"{site.address}#/call/axe?t=0")
        expect(page.get_by_role("table", name="Probabilities")).to_be_visible()
        assert_accessible(page)
        if scheme == "dark":
            return  # the other pages have the same colours
        page.goto(f"{site.address}#/search?words=said")
        expect(page.locator(".hits li").first).to_be_visible()
        assert_accessible(page)
        page.goto(f"{site.address}#/wallboard")
        expect(page.locator(".card").first).to_be_visible()
        assert_accessible(page)


def test_a_phone_shows_it_too(browser: Browser, site: Site):
    site.publish(*spoken(live("phone", "fear")))
    with page_of(browser, f"{site.address}#/?text=phone", viewport={"width": 390, "height": 780}) as page:
        for address in ("#/?text=phone", "#/call/phone", "#/search"):
            page.goto(site.address + address)
            expect(page.locator("h1")).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{address} is {wide} px wider than its window"


def test_the_page_goes_on_where_it_was_when_the_monitor_was_killed(browser: Browser, tmp_path: Path):
    config = hub_config(tmp_path)
    made = live("resumed", "joy")
    with EventHub(config) as hub:
        hub.publish(spoken(made)).result()
        monitor = MonitorProcess(tmp_path, config)
        try:
            with page_of(browser, f"{monitor.address}#/call/resumed") as page:
                said = page.locator(".transcript li[data-key] .words")
                expect(said).to_have_count(4)
                monitor.kill()
                expect(page.get_by_text("The connection to the monitor is lost; trying again.")).to_be_visible()
                hub.publish([made.say(words=f"meanwhile {n}") for n in range(3)]).result()
                monitor.start()
                expect(page.locator("#status")).to_have_text("Live", timeout=20_000)
                expect(said).to_have_count(7)
                assert said.all_text_contents()[4:] == [f"meanwhile {n}" for n in range(3)]
        finally:
            monitor.end()


def test_a_browser_that_slept_says_so_and_gets_what_it_missed(browser: Browser, site: Site):
    made = live("slept", "joy")
    site.publish(*spoken(made))
    with page_of(browser, "about:blank") as page:
        page.clock.install()
        page.goto(f"{site.address}#/call/slept")
        said = page.locator(".transcript li[data-key] .words")
        expect(said).to_have_count(4)
        expect(page.locator("#status")).to_have_text("Live")
        page.route("**/stream*", lambda route: route.abort())  # the network wakes up later than the browser
        page.clock.fast_forward("01:00:00")
        expect(page.locator("#status")).to_have_text(re.compile("Nothing was heard for 60 min: .* is old"))
        site.publish(*(made.say(words=f"meanwhile {n}") for n in range(3)))
        page.unroute("**/stream*")
        for _ in range(3):
            page.clock.fast_forward(20_000)
        expect(said).to_have_count(7)
        expect(page.locator("#status")).to_have_text("Live")
        assert said.all_text_contents()[4:] == [f"meanwhile {n}" for n in range(3)]


def test_tabs_that_nobody_looks_at_give_their_connection_back(browser: Browser, site: Site):
    made = live("tabs", "joy")
    site.publish(*spoken(made))
    with page_of(browser, f"{site.address}#/call/tabs") as page:
        tabs = [page]
        for _ in range(6):  # one more than a browser connects to one address
            tabs[-1].evaluate(HIDE, True)
            tabs.append(page.context.new_page())
            tabs[-1].goto(f"{site.address}#/call/tabs")
        for tab in (tabs[-1], tabs[0]):
            tab.evaluate(HIDE, False)
            expect(tab.locator("#status")).to_have_text("Live")
            site.publish(made.say(words=f"seen again {tabs.index(tab)}"))
            expect(tab.locator(".transcript li[data-key] .words").last).to_have_text(
                f"seen again {tabs.index(tab)}"
            )
        expect(tabs[0].locator(".transcript li[data-key] .words")).to_have_count(6)


def test_a_hub_that_goes_away_is_said_on_the_page_until_it_is_back(browser: Browser, tmp_path: Path):
    config = hub_config(tmp_path)
    made = live("away", "joy")
    with EventHub(config) as hub:
        hub.publish(spoken(made)).result()
        site = serving(tmp_path, hub_address(config))
        monitor = site.__enter__()
    try:
        with page_of(browser, f"{monitor.address}#/call/away") as page:
            status = page.locator("#status")
            expect(status).to_have_text(re.compile(r"No news from the hub for \d+ s: "), timeout=20_000)
            with EventHub(config) as hub:
                expect(status).to_have_text("Live", timeout=20_000)
                hub.publish([made.say(words="back again")]).result()
                expect(page.locator(".transcript li[data-key] .words").last).to_have_text("back again")
    finally:
        site.__exit__(None, None, None)


def test_the_report_breaks_no_word_that_has_room_and_is_not_wider_than_paper(browser: Browser):
    made = MadeCall("printed", began=time.time_ns() - 30 * 10**9, mood="anger")
    said = [made.start(), *(made.say("left", words=f"so bad {n} {'x' * 200}", ms=3000) for n in range(8))]
    context = browser.new_context(viewport={"width": 720, "height": 1000})  # A4 less its margins
    try:
        page = context.new_page()
        page.emulate_media(media="print")
        page.set_content(call_page(CallReport.of([*said, *raised(made, said)])))
        for words in ("CustomerAngerSustained", "left", "firing"):
            cell = page.locator("td").get_by_text(words, exact=True).first
            lines = cell.evaluate(LINES)
            assert lines == 1, words
        assert page.evaluate("document.documentElement.scrollWidth") <= 720
        assert page.evaluate(WIDEST_TABLE) <= 720
    finally:
        context.close()
