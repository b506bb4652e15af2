"""The report as one file of HTML that needs nothing else: read on a screen, light or dark, or on paper.

Unusual: the page is a tree that the standard library writes, never text put together, so that nothing that comes
from a call can become markup. It has no script, and its own policy lets nothing be loaded.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bcaf_stream.display import printable
from bcaf_stream.events.event import Event
from bcaf_stream.report.call import LIMITS, CallReport
from bcaf_stream.report.style import STYLE
from bcaf_stream.summary import CallSummary

LETTERS = {"anger": "A", "disgust": "D", "fear": "F", "joy": "J", "neutral": "N", "sadness": "S", "surprise": "!"}
WIDTH, LANE, NAME = 1000, 34, 90  # of the timeline, in its own units
LONGEST_WORD = 26  # characters that are not broken, in a table on paper
NARROWEST = 14  # of a block with a letter in it


def call_page(report: CallReport) -> str:
    """The page of one call."""
    call = report.summary
    page = _Page(f"Call {call.call}")
    facts = {
        "began": _when(call.started_at),
        "length": _clock(call.now_ms),
        "state": f"ended: {call.reason}" if call.ended else "not ended",
        "policy": call.policy or "fused",
        "negative mass": _share(report.negative_mass),
        "talk-over": f"{call.talk_over_ms / 1000:.1f} s",
        "longest silence": _silence(call.longest_silence),
        "alerts": str(report.fired),
    }
    page.table((), facts.items())
    page.head("Timeline")
    page.body.append(_timeline(call))
    page.head("By role")
    talked_over_ms = call.talked_over_ms
    emotions = sorted({name for role in call.roles.values() for name in role.shares})
    page.table(
        ("role", "utterances", "talk time", "talked over", "longest pause", "negative mass", *emotions),
        [
            (
                name,
                str(role.utterances),
                _clock(role.talk_ms),
                f"{talked_over_ms[name] / 1000:.1f} s",
                _seconds(call.longest_silence_of(name)),
                _share(role.negative_mass),
                *(_share(role.shares.get(emotion, 0.0)) for emotion in emotions),
            )
            for name, role in call.roles.items()
        ],
        numbers=range(1, 6 + len(emotions)),
    )
    if call.turning_points:
        page.head("Turning points")
        page.table(
            ("time", "channel", "negative mass before", "after"),
            [
                (_clock(point.at_ms), point.channel, _share(point.before), _share(point.after))
                for point in call.turning_points
            ],
            numbers=(0, 2, 3),
        )
    _alerts(page, report.alerts)
    _transcript(page, call)
    _quality(page, call)
    page.limits(call.models or [call.model])
    return page.written()


def _silence(span: tuple[int, int]) -> str:
    return f"{_seconds(span)}, from {_clock(span[0])} on" if span[1] else "none"


def _seconds(span: tuple[int, int]) -> str:
    return f"{(span[1] - span[0]) / 1000:.1f} s"


def day_page(day: str, reports: Sequence[CallReport]) -> str:
    """The calls of a day, those first that have most alerts, and then most negative mass."""
    page = _Page(f"Calls of {day} (UTC)")
    page.text(f"{len(reports)} calls, {sum(report.fired for report in reports)} alerts.")
    page.table(
        ("call", "began", "length", "utterances", "negative mass", "alerts", "gaps", "end"),
        [
            (
                str(report.summary.call),
                _when(report.summary.started_at)[11:],
                _clock(report.summary.now_ms),
                str(len(report.summary.said)),
                _share(report.negative_mass),
                str(report.fired),
                str(report.summary.quality.gaps),
                str(report.summary.reason or "") if report.summary.ended else "not ended",
            )
            for report in sorted(reports, key=lambda one: (-one.fired, -(one.negative_mass or 0)))
        ],
        numbers=range(2, 7),
    )
    page.limits(sorted({report.summary.model for report in reports}))
    return page.written()


class _Page:
    def __init__(self, title: str) -> None:
        self._root = ET.Element("html", lang="en")
        head = ET.SubElement(self._root, "head")
        ET.SubElement(head, "meta", charset="utf-8")
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        ET.SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
        ET.SubElement(head, "meta", name="viewport", content="width=device-width")
        ET.SubElement(head, "title").text = printable(title)
        ET.SubElement(head, "style").text = STYLE
        self.body = ET.SubElement(self._root, "body")
        _text(self.body, "h1", title)

    def head(self, text: str) -> None:
        _text(self.body, "h2", text)

    def text(self, text: str) -> None:
        _text(self.body, "p", text)

    def table(
        self, heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int] = ()
    ) -> ET.Element:
        """Rows of text; without `heads` the first of each row is its head. Returns the table's body."""
        table = ET.SubElement(ET.SubElement(self.body, "div", {"class": "scroll"}), "table")
        if heads:
            top = ET.SubElement(ET.SubElement(table, "thead"), "tr")
            for n, head in enumerate(heads):
                _text(top, "th", head, {"scope": "col", **({"class": "n"} if n in numbers else {})})
        body = ET.SubElement(table, "tbody")
        for row in rows:
            line = ET.SubElement(body, "tr")
            for n, cell in enumerate(row):
                if n or heads:
                    _text(line, "td", cell, {"class": "n"} if n in numbers else _breaking(cell))
                else:
                    _text(line, "th", cell, {"scope": "row"})
        return body

    def limits(self, models: Iterable[str]) -> None:
        self.head("The model and its limits")
        self.text(f"Model: {', '.join(filter(None, models)) or 'unknown'}.")
        self.text(LIMITS)

    def written(self) -> str:
        return "<!doctype html>\n" + ET.tostring(self._root, encoding="unicode", method="html") + "\n"


def _timeline(call: CallSummary) -> ET.Element:
    lanes = {name: n for n, name in enumerate(call.channels)}
    height = LANE * max(1, len(lanes)) + 24
    label = (
        f"{len(call.said)} utterances of {len(lanes)} channels over {_clock(call.now_ms)}; they follow as a table"
    )
    svg = ET.Element("svg", viewBox=f"0 0 {WIDTH} {height}", role="img")
    svg.set("aria-label", label)
    scale = (WIDTH - NAME) / max(1, call.now_ms)

    def block(kind: str, start_ms: int, end_ms: int, lane: int, about: str) -> tuple[float, float]:
        x, width = NAME + start_ms * scale, max(1.0, (end_ms - start_ms) * scale)
        place = {"x": f"{x:.1f}", "y": str(lane * LANE + 4), "width": f"{width:.1f}", "height": str(LANE - 8)}
        _text(ET.SubElement(svg, "rect", {"class": kind, **place}), "title", about)
        return x + width / 2, width

    for name, lane in lanes.items():
        _text(svg, "text", name[:12], {"x": "0", "y": str(lane * LANE + LANE // 2 + 4)})
    for one in call.said:
        felt = one.emotion or "not judged"
        about = f"{_clock(one.start_ms)} {felt} {_share(one.confidence)}"
        middle, width = block(_kind(one.emotion), one.start_ms, one.end_ms, lanes[one.channel], about)
        if width >= NARROWEST and one.emotion:
            y = str(lanes[one.channel] * LANE + LANE // 2 + 4)
            place = {"x": f"{middle:.1f}", "y": y, "class": f"on on-{_kind(one.emotion)}"}
            _text(svg, "text", _letter(one.emotion), place)
    for channel, start_ms, end_ms, reason in call.gaps:
        if channel in lanes:
            block("gap", start_ms, end_ms, lanes[channel], f"sound lost: {reason}")
    for n in range(5):
        place = {"x": f"{NAME + (WIDTH - NAME) * n / 4:.0f}", "y": str(height - 6)}
        anchor = {0: "start", 4: "end"}.get(n, "middle")
        _text(svg, "text", _clock(call.now_ms * n // 4), {**place, "text-anchor": anchor})
    return svg


def _alerts(page: _Page, alerts: Iterable[Event]) -> None:
    told = [event for event in alerts if event.state != "pending"]
    if not told:
        return
    page.head("Alerts")
    rows = [
        (
            _clock(event.end_ms or 0),
            event.rule or "",
            event.channel or "the call",
            event.state or "",
            "" if event.value is None else f"{event.value:.2f}",
            "" if event.threshold is None else f"{event.threshold:.2f}",
            (event.annotations or {}).get("summary", "") or event.reason or "",
            "",
        )
        for event in told
    ]
    heads = ("time", "alert", "of", "state", "value", "threshold", "", "evidence")
    body = page.table(heads, rows, numbers=(0, 4, 5))
    for line, event in zip(body, told, strict=True):
        for one in sorted(event.evidence or (), key=_begin):
            goal = f"#{_anchor(str(one.get('channel')), one.get('utterance'))}"
            start = one.get("start_ms")
            _text(line[-1], "a", _clock(start) if isinstance(start, int) else "there", {"href": goal}).tail = " "


def _begin(evidence: Mapping[str, Any]) -> int:
    return int(evidence.get("start_ms") or 0)


def _transcript(page: _Page, call: CallSummary) -> None:
    page.head("Transcript")
    said = call.said
    rows = []
    for one in said:
        remarks = [*one.degraded]
        if one.emotion is None and one.reason and one.reason not in remarks:
            remarks.append(one.reason)
        if one.emotion is not None and len(one.modalities) == 1:
            remarks.append(f"{one.modalities[0]} only")
        if one.revision and one.was and one.was != one.emotion:
            remarks.append(f"before its revision: {one.was}")
        elif one.revision:
            remarks.append("revised")
        words = "(no words)" if one.text is None else one.text
        who = one.who if one.role in (None, one.who) else f"{one.who} ({one.role})"
        rows.append((_clock(one.start_ms), who, "", _share(one.confidence), words, "; ".join(remarks)))
    body = page.table(("time", "who", "emotion", "sure", "words", "remarks"), rows, numbers=(0, 3))
    for line, one in zip(body, said, strict=True):
        line.set("id", _anchor(one.channel, one.index))
        if one.emotion:
            tag = _text(line[2], "span", _letter(one.emotion), {"class": f"tag {_kind(one.emotion)}"})
            tag.tail = f" {printable(one.emotion)}"
        else:
            line[2].text = "not judged"


def _quality(page: _Page, call: CallSummary) -> None:
    quality = call.quality
    page.head("Quality of the data")
    lost = "1 gap" if quality.gaps == 1 else f"{quality.gaps} gaps"
    rows = [
        ("sound lost", f"{lost}, {sum(quality.lost_ms.values()) / 1000:.1f} s in all channels"),
        ("judged by sound alone", _share(quality.audio_only)),
        ("not judged", _share(quality.share("none"))),
        ("revised", str(quality.revised)),
        ("events that are missing", str(quality.missing)),
        ("redacted spans", str(quality.redacted)),
    ]
    page.table(
        (), rows + [(f"degraded: {reason}", str(count)) for reason, count in quality.degraded.most_common()]
    )


def _text(parent: ET.Element, tag: str, text: str, attributes: dict[str, str] | None = None) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes or {})
    element.text = printable(text)
    return element


def _breaking(cell: str) -> dict[str, str]:
    """Only a word that no column has room for is broken: a column of short ones keeps its width."""
    return {"class": "long" if max(map(len, cell.split()), default=0) > LONGEST_WORD else "short"}


def _kind(emotion: str | None) -> str:
    """A class of the style; of another model's emotions there is none."""
    return emotion if emotion in LETTERS else "other"


def _letter(emotion: str) -> str:
    return LETTERS.get(emotion, emotion[:1].upper())


def _anchor(channel: str, index: object) -> str:
    return f"u-{channel.encode().hex()}-{index}"


def _clock(ms: int) -> str:
    seconds = ms // 1000
    return (
        f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if seconds >= 3600
        else (f"{seconds // 60}:{seconds % 60:02d}")
    )


def _when(ns: int | None) -> str:
    return "unknown" if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
