"""A real deployment: what it refuses, and that it goes on when its actors are killed."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.launch import Deployment, Endpoints
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.client.link import SenderConfig
from bcaf_stream.client.recorded import send_recording
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.errors import BcafError, LinkError
from bcaf_stream.events.event import Event, topic_prefix
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.subscriber import EventSubscriber
from bcaf_stream.ingest.protocols.link import Closed
from bcaf_stream.recording import Analysis, Recording
from tests.deployed import free_address, serve_config
from tests.same import assert_same_events
from tests.tiny import tiny_checkpoint
from tests.waiting import until

NO_CPUS = ("emotion.num_cpus=0", "ingest.num_cpus=0")  # beside the running deployment there are none left


@dataclass
class Running:
    deployment: Deployment
    endpoints: Endpoints
    journal: Path


@pytest.fixture(scope="module")
def running(ray_session: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    addresses = [f"hub.{name}.bind={free_address()}" for name in ("bus", "replay")]  # kept over a restart
    config = serve_config(
        "setup",
        tiny,
        tmp_path_factory.mktemp("setup"),
        "emotion.num_cpus=0.5",
        *addresses,
        "ingest.live.grace_s=1",
        "ingest.live.resume_s=2",
    )
    with Deployment(config) as deployment:
        yield Running(deployment, deployment.up(), config.hub.journal.path)


def until_end(subscriber: EventSubscriber) -> list[Event]:
    found: list[Event] = []
    while not found or found[-1].type != "call.end":
        event = subscriber.receive(60)
        assert event is not None
        found.append(event)
    return found


class Sending(threading.Thread):
    """A call that is sent in the background."""

    def __init__(self, recording: Recording, endpoint: str, speed: float) -> None:
        super().__init__()
        give_up = SenderConfig(give_up_s=1)  # what is bound to port * comes back at another one
        self._arguments = (recording, endpoint, speed, "given", recording.transcript(SCRIPT), give_up)
        self.outcome: Closed | BcafError | None = None

    def run(self) -> None:
        try:
            self.outcome = send_recording(*self._arguments)  # type: ignore[arg-type]
        except BcafError as error:
            self.outcome = error


def actor(name: str) -> Any:
    return ray.get_actor(name, "setup")


def test_a_killed_emotion_actor_costs_no_event(running: Running, tiny: Path):
    recording = Recording.open(str(CALL), {}, {}, "failover")
    config = load_config(AnalyzerConfig, None, [f"model.checkpoint={tiny}"])
    expected = list(Analysis(recording, config, "given", recording.transcript(SCRIPT)))
    with EventSubscriber(running.endpoints.events, None, [topic_prefix("failover")]) as listener:
        assert running.deployment.wait_for_listener(10)
        sending = Sending(recording, running.endpoints.audio, speed=15)
        sending.start()
        found = []
        while (event := listener.receive(60)) is not None:
            found.append(event)
            if len(found) == 4:
                ray.kill(actor("emotion-0"), no_restart=False)
            if event.type == "call.end":
                break
        sending.join()
    assert_same_events(found, expected)
    assert isinstance(sending.outcome, Closed)
    assert running.deployment.stats()["ingest"]["failovers"] >= 1


def test_a_reload_costs_no_event_and_a_failed_one_changes_nothing(running: Running, tiny: Path, tmp_path: Path):
    deployment = running.deployment
    with pytest.raises(BcafError, match="no such checkpoint folder"):
        deployment.reload(str(tmp_path / "none"))
    with pytest.raises(BcafError, match="has other encoders"):
        deployment.reload(str(tiny_checkpoint(tmp_path / "strange", seed=1)))
    assert deployment.stats()["emotion-0"]["model"] == running.endpoints.model

    recording = Recording.open(str(CALL), {}, {}, "reload")
    config = load_config(AnalyzerConfig, None, [f"model.checkpoint={tiny}"])
    other = tiny_checkpoint(tmp_path / "other", model_seed=1)
    config_after = load_config(AnalyzerConfig, None, [f"model.checkpoint={other}"])
    before, after = (
        {event.id: event for event in Analysis(recording, its, "given", recording.transcript(SCRIPT))}
        for its in (config, config_after)
    )
    with EventSubscriber(running.endpoints.events, None, [topic_prefix("reload")]) as listener:
        assert deployment.wait_for_listener(10)
        sending = Sending(recording, running.endpoints.audio, speed=4)
        sending.start()
        found = [event for _ in range(4) if (event := listener.receive(60))]
        endpoints, _ = deployment.reload(str(other))
        found += until_end(listener)
        sending.join()
    assert isinstance(sending.outcome, Closed)
    assert [event.id for event in found] == list(before)
    judged = [event for event in found if event.emotion]
    assert (judged[0].model, judged[-1].model) == (running.endpoints.model, endpoints.model)
    for event in judged:  # each as if its model had judged the call from the start
        expected = (before if event.model == running.endpoints.model else after)[event.id]
        assert event.probs == pytest.approx(expected.probs, abs=1e-3)

    ray.kill(actor("emotion-0"), no_restart=False)  # it comes back with what it was made with
    until(lambda: deployment.stats()["emotion-0"].get("model") == running.endpoints.model, 60)
    until(lambda: keep_model(deployment) == endpoints.model, 60)
    recording = Recording.open(str(CALL), {}, {}, "reload-later")
    send_recording(recording, running.endpoints.audio, 0, "none")
    with Journal(JournalConfig(path=running.journal), read_only=True) as journal:
        assert {event.model for event in journal.read(call="reload-later")} == {endpoints.model}
    deployment.reload(str(tiny))  # for the tests after this one


def keep_model(deployment: Deployment) -> Any:
    deployment.keep_model(deployment.stats())
    return deployment.stats()["emotion-0"].get("model")


def test_a_call_that_is_in_the_journal_is_not_taken_again(running: Running):
    recording = Recording.open(str(CALL), {}, {}, "failover")
    with pytest.raises(LinkError, match="is over, and in the journal already"):
        send_recording(recording, running.endpoints.audio, 0, "none")


def test_the_journal_holds_what_was_published(running: Running):
    with Journal(JournalConfig(path=running.journal), read_only=True) as journal:
        events = list(journal.read(call="failover"))
    assert [event.seq for event in events] == list(range(len(events)))
    assert events[-1].type == "call.end"


def test_the_metrics_of_all_actors_say_what_was_done(running: Running):
    with Journal(JournalConfig(path=running.journal), read_only=True) as journal:
        events = list(journal.read())
    samples = [sample for family in running.deployment.metrics() for sample in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    finals = sum(event.type == "emotion.final" for event in events)
    assert total("bcaf_utterances_total", actor="ingest") == total("bcaf_confidence_count") == finals > 0
    assert total("bcaf_audio_seconds_total", protocol="link") > 30
    assert total("bcaf_stage_seconds_count", stage="emotion") >= finals
    assert total("bcaf_stage_seconds_count", stage="step", actor="emotion-0") > 0
    assert total("bcaf_journal_offset", actor="hub") == events[-1].offset
    assert {s.labels["actor"]: s.value for s in samples if s.name == "bcaf_actor_up"} == {
        "hub": 1.0,
        "ingest": 1.0,
        "emotion-0": 1.0,
    }


def test_a_killed_hub_costs_no_event(running: Running, tiny: Path):
    recording = Recording.open(str(CALL), {}, {}, "hubless")
    replay = ray.get(actor("hub").replay_endpoint.remote(), timeout=10)
    found: list[Event] = []
    with EventSubscriber(
        running.endpoints.events, replay, topics=["emo.v1.hubless."], start="start"
    ) as subscriber:
        sending = Sending(recording, running.endpoints.audio, speed=15)
        sending.start()
        while not found or found[-1].type != "call.end":
            event = subscriber.receive(60)
            assert event is not None
            found.append(event)
            if len(found) == 4:
                ray.kill(actor("hub"), no_restart=False)
        sending.join()
    assert isinstance(sending.outcome, Closed)
    assert [event.seq for event in found] == list(range(len(found)))
    assert sum(event.type == "emotion.final" for event in found) == sending.outcome.utterances
    with Journal(JournalConfig(path=running.journal), read_only=True) as journal:
        assert list(journal.read(call="hubless")) == found
        assert journal.epoch == 2


def test_a_killed_ingest_actor_comes_back_and_its_sender_is_told(running: Running):
    recording = Recording.open(str(CALL), {}, {}, "lost")
    sending = Sending(recording, running.endpoints.audio, speed=5)
    with EventSubscriber(running.endpoints.events, None, [topic_prefix("lost")]) as listener:
        assert running.deployment.wait_for_listener(10)
        sending.start()
        assert listener.receive(60) is not None
        ray.kill(actor("ingest"), no_restart=False)
        sending.join()
    assert isinstance(sending.outcome, LinkError)
    for _ in range(100):
        running.deployment.keep_running(timeout_s=1)
        if running.deployment.stats()["ingest"].get("ready"):
            break
    endpoint = ray.get(actor("ingest").endpoint.remote(), timeout=10)
    again = Recording.open(str(CALL), {}, {}, "again")
    assert send_recording(again, endpoint, 0, "none").reason == "complete"
    with EventSubscriber(
        running.endpoints.events, running.endpoints.replay, ["emo.v1.lost."], "start"
    ) as subscriber:
        found = until_end(subscriber)
    assert [event.seq for event in found] == list(range(len(found)))
    assert found[-1].reason == "sender lost"  # nobody came back for it


def test_a_port_in_use_is_one_line(ray_session: None, running: Running, tiny: Path, tmp_path: Path):
    taken = running.endpoints.events
    config = serve_config("second", tiny, tmp_path, f"hub.bus.bind={taken}", *NO_CPUS)
    with (
        pytest.raises(BcafError, match=f"{taken}: the port is in use") as caught,
        Deployment(config) as deployment,
    ):
        deployment.up()
    assert "\n" not in str(caught.value)


def test_too_few_cpus_is_one_line(ray_session: None, tiny: Path, tmp_path: Path):
    config = serve_config("large", tiny, tmp_path, "emotion.replicas=50")
    with pytest.raises(BcafError, match="needs 51 CPUs and Ray has 2"), Deployment(config) as deployment:
        deployment.up()


def test_a_broken_checkpoint_is_one_line(ray_session: None, tmp_path: Path):
    config = serve_config("broken", tmp_path / "nothing", tmp_path, *NO_CPUS)
    with pytest.raises(BcafError, match="no such checkpoint folder") as caught, Deployment(config) as deployment:
        deployment.up()
    assert "\n" not in str(caught.value)
