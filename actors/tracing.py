"""OpenTelemetry: a span for each utterance, from its first sound to its journalled event, and one for each stage.

Nothing of a trace has to travel with a request. Its ids follow from the utterance's own (call, channel, number),
so that every process of the deployment names the same trace, and decides alike whether it is one of the `share`.
The attributes hold no words, no sound, no emotion and no name of a call; `bcaf.event.id` finds the event in the
journal.
"""

import hashlib
import importlib.util
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, field_validator

from bcaf_stream.config import Config
from bcaf_stream.events.event import Event

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor


class TracingConfig(Config):
    """`endpoint` is where a collector takes OTLP over HTTP, http://HOST:4318/v1/traces; None: nothing is traced.

    Of all utterances `share` are traced.
    """

    endpoint: str | None = Field(None, pattern="^https?://")
    service: str = Field("bcaf-stream", min_length=1)
    share: float = Field(1.0, gt=0, le=1)

    @field_validator("endpoint")
    @classmethod
    def _can_be_reached(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not _is_installed():
            raise ValueError("needs OpenTelemetry: pip install 'bcaf-stream[otel]'")
        return endpoint


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


class Subject(NamedTuple):
    """The utterance that a span is of."""

    call: str
    channel: str
    utterance: int

    @property
    def trace_id(self) -> int:
        return int.from_bytes(self._digest[:16]) or 1

    @property
    def span_id(self) -> int:
        return int.from_bytes(self._digest[16:24]) or 1

    @property
    def _digest(self) -> bytes:
        return hashlib.sha256(repr(tuple(self)).encode()).digest()


class _Tracer:
    def __init__(self, config: TracingConfig, processor: "SpanProcessor | None") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        local = self._local = threading.local()  # what the next span of this thread is called

        class Ids(RandomIdGenerator):
            def generate_trace_id(self) -> int:
                return local.subject.trace_id if local.subject else super().generate_trace_id()

            def generate_span_id(self) -> int:
                return local.subject.span_id if local.subject else super().generate_span_id()

        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(config.share),
            resource=Resource.create({"service.name": config.service}),
            id_generator=Ids(),
        )
        self._provider.add_span_processor(processor or _exporting(config))
        self._tracer = self._provider.get_tracer("bcaf-stream")

    def root(self, subject: Subject, event: Event, end_ns: int) -> None:
        from opentelemetry.context import Context

        ended_ns = event.speech_ended_at or end_ns
        length_ms = event.end_ms - event.start_ms if event.end_ms and event.start_ms is not None else 0
        attributes: dict[str, Any] = {
            "bcaf.event.id": event.id,
            "bcaf.text_source": event.text_source,
            "bcaf.model": event.model or "",
            "bcaf.speech_ms": length_ms,
            "bcaf.degraded": bool(event.degraded),
        }
        self._local.subject = subject
        try:
            begin_ns = ended_ns - length_ms * 1_000_000
            span = self._tracer.start_span("utterance", Context(), attributes=attributes, start_time=begin_ns)
        finally:
            self._local.subject = None
        span.add_event("end of speech", timestamp=ended_ns)
        span.end(end_ns)

    def stage(self, name: str, subject: Subject, begin_ns: int, end_ns: int, **attributes: Any) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

        self._local.subject = None
        flags = TraceFlags(TraceFlags.SAMPLED)
        whole = NonRecordingSpan(SpanContext(subject.trace_id, subject.span_id, is_remote=True, trace_flags=flags))
        of = set_span_in_context(whole, Context())
        self._tracer.start_span(name, of, attributes=attributes, start_time=begin_ns).end(end_ns)

    def close(self) -> None:
        self._provider.shutdown()


def _exporting(config: TracingConfig) -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=config.endpoint))  # its queue is bounded, and drops


_tracer: _Tracer | None = None


def start(config: TracingConfig, processor: "SpanProcessor | None" = None) -> None:
    """Trace from now on in this process; `processor` takes the spans in the exporter's place."""
    global _tracer
    if config.endpoint is not None:
        _tracer = _Tracer(config, processor)


def stop() -> None:
    """Hand over what was traced, and trace nothing more."""
    global _tracer
    if _tracer is not None:
        _tracer.close()
        _tracer = None


def stage(name: str, subjects: Sequence[Subject]) -> AbstractContextManager[None]:
    """The block is a stage of these utterances, which go through it together."""
    return _stage(_tracer, name, subjects) if _tracer is not None else nullcontext()


@contextmanager
def _stage(tracer: _Tracer, name: str, subjects: Sequence[Subject]) -> Iterator[None]:
    begin_ns = time.time_ns()
    try:
        yield
    finally:
        end_ns = time.time_ns()
        for subject in subjects:
            tracer.stage(name, subject, begin_ns, end_ns, **{"bcaf.batch": len(subjects)})


def is_on() -> bool:
    return _tracer is not None


def journalled(events: Sequence[Event], begin_ns: int) -> None:
    """These were handed to the hub at `begin_ns` (unix ns), and are journalled now: their utterances are done."""
    if _tracer is None:
        return
    end_ns = time.time_ns()
    for event in events:
        if event.type == "emotion.final" and event.utterance is not None:
            subject = Subject(event.call, event.channel, event.utterance)
            _tracer.stage("journal", subject, begin_ns, end_ns)
            _tracer.root(subject, event, end_ns)
