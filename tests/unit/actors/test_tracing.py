"""Traces of a live call that a real engine judges, in memory and at a collector; nothing where they are off."""

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actors import tracing
from actors.batching import BatchConfig
from actors.call_session import CallSession
from actors.config import ServeConfig
from actors.emotion_actor import EmotionActor, Request
from actors.tracing import Subject, TracingConfig
from bcaf_stream.config import load_config
from bcaf_stream.context import Answer, State
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import ConfigError
from bcaf_stream.events.event import Event, event_id
from bcaf_stream.ingest.sink import CallHandle
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import PcmN, Utterance
from tests.unit.actors.local_runtime import LocalRuntime, demo_chunks, play, send

SECRET = "the blue kettle"
COLLECTOR = "http://127.0.0.1:4318/v1/traces"


class Hears:
    """A recogniser that hears the same words everywhere."""

    def transcribe(self, samples: PcmN) -> Transcription:
        return Transcription(SECRET)


class ActorRuntime(LocalRuntime):
    """Judged by an EmotionActor, here without Ray."""

    def __init__(self, engine: EmotionEngine, checkpoint: Path) -> None:
        super().__init__(engine, Hears())
        self._model, self._actor = ModelConfig(checkpoint=str(checkpoint), threads=1), None

    async def predict(self, state: State | None, utterance: Utterance, urgent: bool = True) -> Answer:
        if self._actor is None:
            self._actor = EmotionActor(self._model, BatchConfig())
            await self._actor.ready(True)
        answer = await self._actor.predict(Request(state, utterance), urgent)
        return answer.prediction, answer.state


@contextmanager
def collected(share: float = 1.0) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start(TracingConfig(endpoint=COLLECTOR, share=share), SimpleSpanProcessor(exporter))
    try:
        yield exporter
    finally:
        tracing.stop()


def final(n: int) -> Event:
    id = event_id("c1", "left", n, "emotion.final", 0)
    return Event(type="emotion.final", id=id, call="c1", channel="left", utterance=n, seq=n, emitted_at=1)


def by_trace(spans: tuple[ReadableSpan, ...]) -> dict[int, dict[str, list[ReadableSpan]]]:
    found: dict[int, dict[str, list[ReadableSpan]]] = defaultdict(lambda: defaultdict(list))
    for span in spans:
        found[span.context.trace_id][span.name].append(span)
    return found


def test_each_utterance_is_a_span_with_its_stages_and_nothing_of_what_was_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("actors.replica_actor.exit_on_death", lambda: None)
    runtime = ActorRuntime(EmotionEngine(ModelConfig(checkpoint=str(tiny), threads=1)), tiny)

    async def script(session: CallSession, line: CallHandle) -> None:
        await send(line, demo_chunks())
        line.end()

    with collected() as exporter:
        play(lambda: runtime.session("asr"), script)
        spans = exporter.get_finished_spans()
    finals = runtime.of("emotion.final")
    assert {event.text for event in finals} == {SECRET}
    traces = by_trace(spans)
    assert len(traces) == len(finals) >= 5
    roots = [root for stages in traces.values() for root in stages["utterance"]]
    assert sorted(root.attributes["bcaf.event.id"] for root in roots) == sorted(event.id for event in finals)
    for root in roots:
        stages = traces[root.context.trace_id]
        assert {"utterance", "recognition", "emotion", "encoding", "step", "journal"} == set(stages)
        (journal,) = stages["journal"]
        assert journal.end_time == root.end_time
        assert root.start_time <= root.events[0].timestamp <= root.end_time
        others = [span for name, those in stages.items() if name != "utterance" for span in those]
        assert {span.parent.span_id for span in others} == {root.context.span_id}
        assert all(span.start_time <= span.end_time for span in others)
    said = "".join(span.to_json() for span in spans)
    assert not [word for word in (SECRET, "c1", "customer", *runtime.events[2].probs) if f'"{word}' in said]
    keys = {key for span in spans for key in span.attributes}
    assert keys == {
        f"bcaf.{key}" for key in ("event.id", "text_source", "model", "speech_ms", "degraded", "batch")
    }


def test_every_process_traces_the_same_share_of_the_utterances():
    def traced() -> tuple[set[int], set[int]]:
        with collected(share=0.5) as exporter:
            for n in range(200):
                with tracing.stage("encoding", [Subject("c1", "left", n)]):
                    pass
            tracing.journalled([final(n) for n in range(200)], begin_ns=1)
            traces = by_trace(exporter.get_finished_spans())
        return {t for t, s in traces.items() if "encoding" in s}, {
            t for t, s in traces.items() if "utterance" in s
        }

    first, again = traced(), traced()
    assert first == again
    assert first[0] == first[1]
    assert 60 < len(first[0]) < 140


def test_a_collector_gets_them_over_http():
    taken: list[ExportTraceServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(
                ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        tracing.start(TracingConfig(endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces", service="here"))
        tracing.journalled([final(0)], begin_ns=1)
        tracing.stop()  # hands over what waits
        server.shutdown()
    (resource,) = taken[0].resource_spans
    assert 'string_value: "here"' in str(resource.resource)
    assert sorted(span.name for span in resource.scope_spans[0].spans) == ["journal", "utterance"]


def test_off_is_the_default_and_costs_no_import():
    assert ServeConfig().tracing.endpoint is None
    script = """
import sys
from actors import outbox, tracing
tracing.start(tracing.TracingConfig())
with tracing.stage("encoding", []):
    tracing.journalled([], 0)
assert not tracing.is_on()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


def test_without_the_extra_the_configuration_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracing.endpoint.*pip install 'bcaf-stream\[otel\]'"):
        load_config(ServeConfig, None, [f"tracing.endpoint={COLLECTOR}"])
