"""The configuration of a deployment: what `bcaf-serve up --config` reads."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from actors.batching import BatchConfig
from actors.hub_actor import HubConfig as HubConfig
from actors.load_shedding import OverloadConfig
from actors.metrics_server import MetricsConfig
from actors.scaling import ScalingConfig
from actors.tracing import TracingConfig
from actors.watchdog import LiveConfig
from bcaf_stream.analyzer import AnalyzerConfig
from bcaf_stream.config import Config
from bcaf_stream.evidence import RecordConfig
from bcaf_stream.ingest.servers import ServersConfig
from bcaf_stream.monitor.config import MonitorConfig


class IngestConfig(ServersConfig):
    """All servers and the calls. `num_cpus` is what Ray reserves; speech recognition takes most of it.

    `record` keeps the sound of some roles for a while, so that the monitor can play what an emotion rests on.

    `label_selector` keeps the actor on nodes of a cluster with these labels, in Ray's own terms; so do `hub`'s and
    `emotion`'s. `resources` are others that Ray knows by name.

    `replicas` are that many actors with all servers each, spread over the nodes; `per_node: 1` is one on each,
    on those that come later too. Of several at the same address each has ports of its own, 100 higher than those
    of the one before. `advertise` is the host by which those outside reach the servers; `{node}` in it stands for
    the node's own address.
    """

    replicas: int = Field(1, ge=1)
    per_node: Literal[1] | None = None
    advertise: str | None = Field(None, pattern=r"^([A-Za-z0-9._:-]|\{node\})+$")
    num_cpus: float = Field(1.0, ge=0)
    label_selector: dict[str, str] = Field(default_factory=dict)
    resources: dict[str, float] = Field(default_factory=dict)
    max_calls: int = Field(64, ge=1)
    live: LiveConfig = LiveConfig()
    overload: OverloadConfig = OverloadConfig()
    record: RecordConfig | None = None

    @property
    def is_spread(self) -> bool:
        """Whether there may be more than one."""
        return self.replicas > 1 or self.per_node is not None

    @model_validator(mode="after")
    def _is_counted_in_one_way(self) -> Self:
        if self.per_node is not None and self.replicas > 1:
            raise ValueError("replicas and per_node are two ways to say how many: give one of them")
        return self


class PoolConfig(Config):
    """Replicas of one kind: what Ray reserves for each, and where it may be.

    `retry_s` is how long a request looks for a live one.
    """

    replicas: int
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    label_selector: dict[str, str] = Field(default_factory=dict)
    retry_s: float = Field(60.0, gt=0)
    batch: BatchConfig = BatchConfig()


class EmotionConfig(PoolConfig):
    """`replicas` engines, each with its own weights; with `scaling`, as many between its `min` and `max` as their
    load asks for."""

    replicas: int = Field(1, ge=1)
    scaling: ScalingConfig | None = None

    @model_validator(mode="after")
    def _starts_with_min(self) -> Self:
        if self.scaling is not None and "replicas" in self.model_fields_set:
            raise ValueError("replicas: with scaling there are min of them at first: leave replicas out")
        return self

    @property
    def at_first(self) -> int:
        return self.scaling.min if self.scaling else self.replicas


class RecognitionConfig(PoolConfig):
    """0 `replicas`: the ingest actor recognises speech itself, on a thread; else that many TranscriberActors do.

    The recogniser is `analyzer.text.asr`. On one machine without a GPU an actor gains nothing: four calls have a
    p95 of 601 ms with the thread, 616 ms with an actor (tests/benchmarks/live_calls.py). A segment for which no
    replica is found within `retry_s` goes out on its sound alone.
    """

    replicas: int = Field(0, ge=0)


class RayConfig(Config):
    """`address` None starts a local Ray that ends with the deployment; otherwise an existing cluster's.

    `num_cpus` bounds a local Ray (None: the machine's). `runtime_env` is handed to Ray as it is, for a
    cluster whose nodes do not have this package installed.
    """

    address: str | None = None
    num_cpus: int | None = None
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    start_timeout_s: float = Field(120.0, gt=0)


class ServeConfig(Config):
    """`name` is the Ray namespace and what `status` and `down` look for.

    `monitor` serves the supervisor's page; its hub's addresses are those of this deployment. `endpoints_file` is
    kept up to date with where each server is reached (JSON).
    """

    name: str = Field("bcaf", pattern=r"^[A-Za-z0-9_-]+$")
    analyzer: AnalyzerConfig = AnalyzerConfig()
    ingest: IngestConfig = IngestConfig()
    recognition: RecognitionConfig = RecognitionConfig()
    emotion: EmotionConfig = EmotionConfig()
    hub: HubConfig = HubConfig()
    ray: RayConfig = RayConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    monitor: MonitorConfig | None = None
    endpoints_file: Path | None = None

    @model_validator(mode="after")
    def _records_only_who_may_be_heard(self) -> Self:
        record = self.ingest.record
        if record is None:
            return self
        off = [role for role in record.roles if self.analyzer.text.policy.get(role) == "off"]
        if off:
            raise ValueError(
                f"ingest.record.roles: the policy of {', '.join(off)} is off, and who is not listened to is not"
                " recorded either: leave that role out"
            )
        if self.hub.journal.sound_folder is None:
            raise ValueError(
                "ingest.record keeps sound beside the journal's file, and this journal is none: give"
                " hub.journal.path, or leave ingest.record out"
            )
        return self
