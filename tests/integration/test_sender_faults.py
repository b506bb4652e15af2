"""A call sent to a real deployment whose ingest process is killed or stands still: each event as undisturbed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from actors.launch import Deployment, Endpoints
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.client.link import SenderConfig
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.errors import BcafError
from bcaf_stream.events.event import Event
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.ingest.protocols.link import Closed
from bcaf_stream.recording import Analysis, Recording
from tests.deployed import free_address, serve_config
from tests.same import assert_same_events
from tests.waiting import elapse

NAME = "faults"
IMPATIENT = SenderConfig(heartbeat_s=0.5)


@pytest.fixture(scope="module")
def endpoints(ray_session: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    places = ("hub.bus", "hub.replay", "ingest.link")
    fixed = [f"{place}.bind={free_address()}" for place in places]  # kept over a restart
    config = serve_config(NAME, tiny, tmp_path_factory.mktemp(NAME), "emotion.num_cpus=0.5", *fixed)
    with Deployment(config) as deployment:
        found = deployment.up()
        ending = threading.Event()

        def supervise() -> None:
            while not ending.is_set():
                deployment.keep_running(timeout_s=0.5)

        supervising = threading.Thread(target=supervise)
        supervising.start()
        try:
            yield found
        finally:
            ending.set()
            supervising.join()


def kill() -> None:
    ray.kill(ray.get_actor("ingest", NAME), no_restart=False)


def stand_still() -> None:
    pid = ray.get(ray.get_actor("ingest", NAME).__ray_call__.remote(lambda _: os.getpid()), timeout=10)
    os.kill(pid, signal.SIGSTOP)
    elapse(4, "the fault itself, longer than the sender's patience")
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", [kill, stand_still])
def test_every_event_is_as_if_nothing_had_been(endpoints: Endpoints, tiny: Path, fault: Callable[[], None]):
    name = fault.__name__
    recording = Recording.open(str(CALL), {}, {}, name)
    words = recording.transcript(SCRIPT)
    config = load_config(AnalyzerConfig, None, [f"model.checkpoint={tiny}"])
    expected = [event for event in Analysis(recording, config, "given", words) if event.utterance is not None]
    outcome: list[Closed | BcafError] = []
    notes: list[str] = []

    def send() -> None:
        try:
            outcome.append(send_recording(recording, endpoints.audio, 8, "given", words, IMPATIENT, notes.append))
        except BcafError as error:
            outcome.append(error)

    sending = threading.Thread(target=send)
    found: list[Event] = []
    with EventSubscriber(endpoints.events, endpoints.replay, [f"emo.v1.{name}."], "start") as subscriber:
        sending.start()
        while not found or found[-1].type != "call.end":
            event = subscriber.receive(90)
            assert event is not None, (outcome, notes, [e.type for e in found])
            found.append(event)
            if sum(e.type == "emotion.final" for e in found) == 4 and event.type == "emotion.final":
                fault()
    sending.join()
    assert [type(o) for o in outcome] == [Closed], outcome
    assert [event.seq for event in found] == list(range(len(found)))
    assert found[-1].reason == "complete"
    assert not [event for event in found if event.type == "audio.gap"]
    finals = [event for event in found if event.utterance is not None]
    assert_same_events([_anywhere(e) for e in finals], [_anywhere(e) for e in expected])
    assert any("connection lost" in note for note in notes)
    assert "connected again" in notes[-1]


def _anywhere(event: Event) -> Event:
    return replace(event, seq=0)  # a note that the analysis was interrupted may stand between
