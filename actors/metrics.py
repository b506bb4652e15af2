"""What a deployment measures of itself, for Prometheus: base units, no call id and no words in a label.

An actor has the registry of its kind and the one that all have (`EVERYWHERE`), and hands its samples over when it
is asked (`snapshot`); the driver serves those of all actors, labelled by actor (see `metrics_server`). The same
samples go to `ray.util.metrics`, so that the scrape configuration that Ray writes finds them as `ray_bcaf_...`.
"""

import asyncio
import os
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from ray.util import metrics as ray_metrics

from bcaf_stream.events.event import Event
from bcaf_stream.loops import faults, start_task

EVERYWHERE, INGEST, EMOTION, RECOGNITION, HUB = (CollectorRegistry() for _ in range(5))
LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
WORK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SHARES = tuple(n / 10 for n in range(1, 10))
MOST_REASONS = 60  # label values of one kind; what comes after them is counted as "other"
LAG_LOOK_S, LAG_S = 0.25, 15.0  # two read it, Prometheus and Ray: so it is of a time, not since the last reading
RAY_S = 10.0  # Ray itself flushes as often

calls_active = Gauge("bcaf_calls_active", "Live calls that are running.", registry=INGEST)
speech_to_event = Histogram(
    "bcaf_speech_to_event_seconds",
    "From the end of the speech of an utterance to its event, journalled and published.",
    ["kind", "text_source"],
    buckets=LATENCY_S,
    registry=INGEST,
)
stage = Histogram(
    "bcaf_stage_seconds",
    "From the request to the answer of one stage: recognition, emotion, encoding, step, journal.",
    ["stage"],
    buckets=WORK_S,
    registry=EVERYWHERE,
)
queue_depth = Gauge("bcaf_queue_depth", "What waits before a stage.", ["stage"], registry=EVERYWHERE)
batch_audio = Histogram(
    "bcaf_batch_audio_seconds",
    "Sound in one batch of the encoders.",
    buckets=(1, 2, 5, 10, 20, 40, 60, 120),
    registry=EMOTION,
)
batch_padding = Histogram(
    "bcaf_batch_padding_ratio",
    "Share of the encoder's frames that are padding.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
    registry=EMOTION,
)
audio = prometheus.Counter(
    "bcaf_audio_seconds", "Sound taken from callers, all channels.", ["protocol"], registry=INGEST
)
audio_gap = prometheus.Counter("bcaf_audio_gap_seconds", "Sound that never came.", ["protocol"], registry=INGEST)
degraded = prometheus.Counter(
    "bcaf_degraded",
    "Calls or utterances analysed with less than was asked for, by the kind of reason.",
    ["reason"],
    registry=INGEST,
)
refused = prometheus.Counter("bcaf_calls_refused", "Calls that were not taken.", ["reason"], registry=INGEST)
utterances = prometheus.Counter("bcaf_utterances", "Utterances judged.", ["emotion", "role"], registry=INGEST)
confidence = Histogram("bcaf_confidence", "Confidence of the utterances judged.", buckets=SHARES, registry=INGEST)
loop_lag = Gauge(
    "bcaf_loop_lag_seconds",
    f"The longest that the event loop was late, in the last {LAG_S:g} s.",
    registry=EVERYWHERE,
)
journal_offset = Gauge("bcaf_journal_offset", "Offset of the last event in the journal.", registry=HUB)
subscribers = Gauge("bcaf_subscribers", "Connections that have subscribed to live events.", registry=HUB)
replays = Gauge("bcaf_replays", "Replays that are running.", registry=HUB)
subscriber_lag = Gauge(
    "bcaf_subscriber_lag_events", "Events that the replay which is furthest behind has still to get.", registry=HUB
)
model_info = Gauge("bcaf_model_info", "The model that is loaded; always 1.", ["name", "sha256"], registry=EMOTION)


class FaultsCollector:
    """`bcaf_faults_total{where}`: errors of one call or request that the process went on after."""

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "bcaf_faults", "Errors of one call or request, by where in the code.", labels=["where"]
        )
        for where, number in faults.counts.items():
            family.add_metric([where], number)
        yield family


EVERYWHERE.register(FaultsCollector())


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


class Family(NamedTuple):
    """One metric of one process, in a form that travels."""

    name: str
    type: str
    help: str
    samples: list[Sample]


class Snapshot(NamedTuple):
    """`instance` is another one when the process is another one."""

    instance: str
    families: list[Family]


_INSTANCE = f"{os.getpid()}-{time.time_ns()}"


def snapshot(own: CollectorRegistry) -> Snapshot:
    """The samples of this process; when they were created, which Prometheus can say too, is left out."""
    return Snapshot(_INSTANCE, [_family(metric) for kind in (EVERYWHERE, own) for metric in kind.collect()])


def _family(metric: Metric) -> Family:
    samples = [Sample(s.name, dict(s.labels), s.value) for s in metric.samples if not s.name.endswith("_created")]
    return Family(metric.name, metric.type, metric.documentation, samples)


def timed(name: str) -> AbstractContextManager[Any]:
    """The time of a block, as `bcaf_stage_seconds{stage=name}`."""
    timer: AbstractContextManager[Any] = stage.labels(name).time()
    return timer


def count_events(events: Sequence[Event], now_ns: int) -> None:
    """What events that are published say of the deployment; `now_ns` is unix time."""
    for event in events:
        if event.type in ("emotion.interim", "emotion.final", "emotion.revised"):
            kind = event.type.removeprefix("emotion.")
            if event.speech_ended_at and kind != "revised":
                seconds = max(0.0, (now_ns - event.speech_ended_at) / 1e9)
                speech_to_event.labels(kind, event.text_source).observe(seconds)
            if kind == "final":
                utterances.labels(event.emotion or "", event.role or "none").inc()
                confidence.observe(event.confidence or 0.0)
        for reason in event.degraded or ():
            degraded.labels(kind_of(reason)).inc()


_kinds: set[str] = set()


def kind_of(reason: str) -> str:
    """The part of a reason that is the same for all calls: its first words, without names and numbers."""
    kind = re.split(r"[:;(]", reason, maxsplit=1)[0].strip()
    kind = re.sub(r"[-+]?\d[\d.]*", "N", kind)[:60]
    if kind not in _kinds and len(_kinds) >= MOST_REASONS:
        return "other"
    _kinds.add(kind)
    return kind


class Watch:
    """Measures the event loop's lag for ever, and hands the samples of an actor to Ray and to whoever asks.

    Args:
        own: the registry of the actor's kind.
        look: sets what is a state and not a count, before the samples are read.
    """

    def __init__(self, own: CollectorRegistry, look: Callable[[], None]) -> None:
        self._own, self._look = own, look
        self._lags_s: deque[float] = deque([0.0], maxlen=round(LAG_S / LAG_LOOK_S))
        start_task("loop lag", self._measure_lag())
        start_task("metrics for Ray", self._hand_to_ray())

    def snapshot(self) -> Snapshot:
        """The samples now; with what is a state, and not a count, as it is now."""
        self._look()
        loop_lag.set(max(self._lags_s))
        return snapshot(self._own)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_LOOK_S
            await asyncio.sleep(LAG_LOOK_S)
            self._lags_s.append(loop.time() - due)

    async def _hand_to_ray(self) -> None:
        series = RaySeries()
        while True:
            await asyncio.sleep(RAY_S)
            for family in self.snapshot().families:
                for sample in family.samples:
                    series.set(sample, family.help)


class RaySeries:
    """Samples as gauges of `ray.util.metrics`, which has no way to set a counter or a histogram as a whole.

    `rate` and `histogram_quantile` work on them all the same: the names and labels are Prometheus's own.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, ray_metrics.Gauge] = {}

    def set(self, sample: Sample, help: str) -> None:
        gauge = self._gauges.get(sample.name)
        if gauge is None:
            keys = tuple(sample.labels)
            gauge = self._gauges[sample.name] = ray_metrics.Gauge(sample.name, help, keys)
        gauge.set(sample.value, tags=sample.labels)


class Restarts:
    """How often each actor has been another process than before."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def see(self, snapshots: Mapping[str, Snapshot | None]) -> None:
        for actor, its in snapshots.items():
            if its is not None:
                self.counts[actor] += self._seen.setdefault(actor, its.instance) != its.instance
                self._seen[actor] = its.instance


def merged(snapshots: Mapping[str, Snapshot | None], restarts: Mapping[str, int]) -> Iterable[Metric]:
    """The samples of all actors as one exposition, with the label `actor`; None: it does not answer."""
    families: dict[str, Metric] = {}
    for actor, its in snapshots.items():
        for family in its.families if its else ():
            metric = families.setdefault(family.name, Metric(family.name, family.help, family.type))
            for sample in family.samples:
                metric.add_sample(sample.name, {"actor": actor, **sample.labels}, sample.value)
    up = Metric("bcaf_actor_up", "Whether an actor answers.", "gauge")
    again = Metric(
        "bcaf_actor_restarts", "How often an actor has begun anew, as far as its driver has seen.", "counter"
    )
    for actor, its in snapshots.items():
        up.add_sample("bcaf_actor_up", {"actor": actor}, float(its is not None))
        again.add_sample("bcaf_actor_restarts_total", {"actor": actor}, float(restarts.get(actor, 0)))
    return [up, again, *families.values()]
