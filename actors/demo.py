"""The demo: a deployment of its own, the call that ships with the project, and its emotions as they arrive."""

import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from actors.config import ServeConfig
from actors.launch import Deployment, Endpoints
from actors.monitor_page import MonitorPage
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.config import load_config
from bcaf_stream.console import EventView, clock, lag_ms
from bcaf_stream.demo import CALL
from bcaf_stream.events.codec import to_json
from bcaf_stream.events.event import Event, topic_prefix
from bcaf_stream.events.progress import settled
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.loops import spawn_thread
from bcaf_stream.monitor.config import MonitorConfig
from bcaf_stream.recording import Recording


def play(output: Path, speed: float, monitor: bool = False, overrides: Sequence[str] = ()) -> None:
    """Run the demo and write its events to `output` as JSON lines; `overrides` are those of `--set`.

    With `monitor` the page of the call is served meanwhile, and on until Ctrl-C.

    Raises:
        BcafError: the deployment cannot start, or the call does not come through whole.
    """
    recording = Recording.open(str(CALL), {}, {}, "demo", unique=True)
    with tempfile.TemporaryDirectory(prefix="bcaf-demo-") as folder:
        # Free ports and a journal of its own: a deployment that runs already is not disturbed.
        config = load_config(ServeConfig, None, [*_overrides(Path(folder)), *overrides])
        print("starting Ray, the encoders and the speech recognition ...", file=sys.stderr)
        with Deployment(config) as deployment:
            endpoints = deployment.up()
            page = _page(Path(folder), endpoints) if monitor else None
            with EventSubscriber(endpoints.events, None, [topic_prefix(recording.call.id)]) as listener:
                deployment.wait_for_listener(timeout_s=10)
                sender = _Sender(recording, endpoints.audio, speed)
                events = _show(listener, sender)
            sender.join()
            if page and not sender.error:
                _stay(page)
    output.write_text("".join(to_json(event) + "\n" for event in events), encoding="utf-8")
    if sender.error:
        raise sender.error
    _summary(events, output)


def _page(folder: Path, endpoints: Endpoints) -> MonitorPage:
    config = MonitorConfig(port=0, audit=folder / "audit.jsonl")
    page = MonitorPage(config, endpoints.events, endpoints.replay)
    print(f"monitor: {page.address}", flush=True)
    return page


def _stay(page: MonitorPage) -> None:
    print(f"the page stays until Ctrl-C: {page.address}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close()


def _overrides(folder: Path) -> list[str]:
    return [
        "name=bcaf-demo",
        "ingest.link.bind=tcp://127.0.0.1:*",
        "hub.bus.bind=tcp://127.0.0.1:*",
        "hub.replay.bind=tcp://127.0.0.1:*",
        f"hub.journal.path={folder / 'events.sqlite'}",
    ]


class _Sender:
    """Plays the call beside the view; what goes wrong is kept for the main thread."""

    def __init__(self, recording: Recording, endpoint: str, speed: float) -> None:
        self._arguments = (recording, endpoint, speed)
        self.error: Exception | None = None
        self._thread = spawn_thread("send", self._run)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        recording, endpoint, speed = self._arguments
        try:
            send_recording(recording, endpoint, speed, "asr", None)
        except Exception as error:  # whatever it is, it is raised where the events are shown
            self.error = error


def _show(listener: EventSubscriber, sender: _Sender) -> list[Event]:
    events: list[Event] = []
    with EventView("table", live=True, title="BCAF Stream: a made call, played as if it were live") as view:
        while not sender.error:
            event = listener.receive(timeout_s=0.5)
            if event is None or event.type == "heartbeat":
                continue
            events.append(event)
            view.add(event)
            if event.type == "call.end":
                break
    return events


def _summary(events: list[Event], output: Path) -> None:
    spoken = settled(events)
    lags = sorted(lag for event in spoken if (lag := lag_ms(event)) is not None)
    length = clock(max((event.end_ms or 0 for event in spoken), default=0))
    middle = f", half of them within {lags[len(lags) // 2]} ms of the end of the speech" if lags else ""
    print(f"{len(spoken)} utterances in {length} of call{middle}; events in {output}")
