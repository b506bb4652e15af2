"""A call as a file: CSV and SRT of what holds in the end, JSON of every event, its report as a page of HTML."""

import csv
import io
import json
import re
from typing import Any

from bcaf_stream.display import csv_cell, printable
from bcaf_stream.events.progress import newest
from bcaf_stream.monitor.store import NS_FIELDS, event_of
from bcaf_stream.report import CallReport, call_page

COLUMNS = (
    "start_ms",
    "end_ms",
    "channel",
    "role",
    "speaker",
    "emotion",
    "confidence",
    "text",
    "text_source",
    "type",
    "revision",
    "degraded",
)
TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "srt": "application/x-subrip; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
_TIME_OF_A_CUE = re.compile(r"(:\d\d[.,])(?=\d)")

Fields = dict[str, Any]


def export(events: list[Fields], format: str) -> str:
    """A call's events, given as the page has them, in one of TYPES."""
    if format == "html":
        return call_page(CallReport.of(map(event_of, events)))
    if format == "json":
        numbers = [{n: int(v) if n in NS_FIELDS else v for n, v in event.items()} for event in events]
        return json.dumps(numbers, ensure_ascii=False, indent=1)
    spoken = settled(events)
    return _csv(spoken) if format == "csv" else _srt(spoken)


def settled(events: list[Fields]) -> list[Fields]:
    """Each utterance's last word, by time; also of those that could not be judged."""
    spoken = (event for event in events if "utterance" in event and event["type"] != "emotion.interim")
    last = newest(spoken, lambda event: ((event.get("channel", ""), event["utterance"]), event["revision"]))
    return sorted(last, key=lambda event: (event.get("start_ms", 0), event.get("channel", "")))


def _csv(spoken: list[Fields]) -> str:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(COLUMNS)
    for event in spoken:
        cells = {**event, "degraded": "; ".join(event.get("degraded", ()))}
        rows.writerow([csv_cell(cells.get(name, "")) for name in COLUMNS])
    return out.getvalue()


def _srt(spoken: list[Fields]) -> str:
    cues = []
    for number, event in enumerate(spoken, 1):
        who = event.get("speaker") or event.get("role") or event.get("channel", "")
        felt = f"{event['emotion']} {event.get('confidence', 0):.0%}" if "emotion" in event else "not judged"
        # An empty line would end the cue; an arrow, or for some readers two times, would begin another one.
        words = printable(" ".join(event.get("text", "(no words)").split())).replace("-->", "->")
        words = _TIME_OF_A_CUE.sub(r"\1 ", words)
        times = f"{_srt_time(event.get('start_ms', 0))} --> {_srt_time(event.get('end_ms', 0))}"
        cues.append(f"{number}\n{times}\n[{printable(who)}: {printable(felt)}] {words}\n")
    return "\n".join(cues)


def _srt_time(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{ms:03d}"
