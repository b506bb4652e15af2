"""The actors are created here and nowhere else.

The process that holds a Deployment owns it: when it ends, the actors end, and a Ray that it started too.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from prometheus_client.metrics_core import Metric
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster import Cluster, plain
from actors.config import IngestConfig, PoolConfig, ServeConfig
from actors.emotion_actor import EmotionActor
from actors.emotion_scaler import EmotionScaler
from actors.endpoints import Endpoint
from actors.hub_actor import HubActor
from actors.ingest_actor import IngestActor
from actors.ingest_pool import IngestPool
from actors.metrics import Restarts, Snapshot, merged
from actors.model_probe import Probe
from actors.placement import fits
from actors.ports import with_ports
from actors.transcriber_actor import TranscriberActor
from bcaf_stream.errors import BcafError, DeploymentError

log = logging.getLogger(__name__)

STATS_S = 2.0  # an actor that does not answer within this is not alive as far as anybody can see
LOOK_S = 0.25
SWAP_S = 10.0


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the deployment is reached: `send` goes to `audio`, `listen` to `events` and `replay`.

    `servers` are all of those by which live calls come in, by protocol. `endpoints` are all servers, one by one,
    as somebody outside reaches them.
    """

    audio: str
    servers: dict[str, str]
    events: str
    replay: str
    model: str
    caveats: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class _Needs:
    """What Ray reserves for an actor, and the labels of the nodes on which it may be, or the one node."""

    cpus: float = 0
    gpus: float = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    node: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """As Ray has them."""
        found: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": dict(self.resources)}
        if self.node is None:
            return found | {"label_selector": dict(self.labels) or None}
        return found | {"scheduling_strategy": NodeAffinitySchedulingStrategy(self.node, soft=False)}


def _needs_of(pool: PoolConfig) -> _Needs:
    return _Needs(pool.num_cpus, pool.num_gpus, pool.label_selector)


class Deployment:
    """HubActor, EmotionActors and IngestActor on a local Ray or a cluster.

    Use as a context manager: `up()`, or `create()` and then `ready()` until it gives the endpoints; `down()`.
    Ray restarts an actor that dies, and the actors find each other again by themselves.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = with_ports(config)
        self._cluster: Cluster | None = None
        self._others: dict[str, Any] = {}  # than the replicas of ingest, by name; the hub comes first
        self._ingest: IngestPool | None = None
        self._scaler: EmotionScaler | None = None
        self._restarts = Restarts()
        model, threads = config.analyzer.model, max(1, int(config.emotion.num_cpus))
        self._model = model.model_copy(update={"threads": model.threads or threads})
        self._wanted: str | None = None  # the model of the last reload
        self._preparing: dict[str, Any] = {}  # emotion actors that load it, since they were started again

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> Endpoints:
        """Start everything and wait until it is ready.

        Raises:
            DeploymentError: Ray cannot be started or reached, lacks the resources, or an actor does not start.
            BcafError: an actor says why it cannot start (a port in use, a broken checkpoint, ...).
        """
        self.create()
        refs = {actor.ready.remote(True): name for name, actor in self._actors.items()}
        waiting, deadline = list(refs), time.monotonic() + self._config.ray.start_timeout_s
        while waiting:
            done, waiting = ray.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                seconds = f"{self._config.ray.start_timeout_s:g}"
                who = f"the {refs[waiting[0]]} actor"
                message = f"{who} did not start within {seconds} s: is the cluster busy? (ray.start_timeout_s)"
                raise DeploymentError(message)
            try:
                ray.get(done[0])
            except RayError as error:
                raise plain(error, f"the {refs[done[0]]} actor does not start") from None
        endpoints = self.ready()
        assert endpoints
        return endpoints

    def create(self) -> None:
        """Start Ray and the actors, which then open what they need, and try again while they cannot.

        Raises:
            DeploymentError: Ray cannot be started or reached, or lacks the resources.
        """
        config = self._config
        self._cluster = Cluster(config.ray.address, config.ray.num_cpus, config.ray.runtime_env)
        self._check_resources()
        emotion, recognition = config.emotion, config.recognition
        needs = _Needs(labels=config.hub.label_selector)
        self._others["hub"] = self._create("hub", HubActor, needs, config.hub)
        self._ingest = IngestPool(config.ingest, self._cluster, self._create_ingest)
        for name in self._names("emotion"):
            self._create_emotion(name)
        if emotion.scaling:
            names = self._names("emotion")
            self._scaler = EmotionScaler(emotion.scaling, names, self._create_emotion, self._end)
        needs = _needs_of(recognition)
        for name in self._names("recognition"):
            made = self._create(name, TranscriberActor, needs, config.analyzer.text.asr, recognition.batch)
            self._others[name] = made

    def follow_nodes(self) -> None:
        """Nodes of a cluster come and go."""
        assert self._ingest
        self._ingest.follow_nodes()

    def _create_ingest(self, name: str, ingest: IngestConfig, node: str | None) -> Any:
        config = self._config.model_copy(update={"ingest": ingest})
        needs = _Needs(ingest.num_cpus, labels=ingest.label_selector, resources=ingest.resources, node=node)
        others = ("hub", self._names("emotion"), self._names("recognition"))
        return self._create(name, IngestActor, needs, config, name, *others)

    def _create_emotion(self, name: str) -> None:
        emotion, tracing = self._config.emotion, self._config.tracing
        made = self._create(name, EmotionActor, _needs_of(emotion), self._model, emotion.batch, tracing)
        self._others[name] = made

    def _end(self, name: str) -> None:
        ray.kill(self._others.pop(name))
        self._preparing.pop(name, None)

    def follow_load(self, stats: dict[str, dict[str, Any]]) -> None:
        """After `stats`: as many emotion actors as are wanted, and those that are ready are asked."""
        if self._scaler is None:
            return
        with suppress(DeploymentError):  # said by Ray as long as a name is taken: at the next look
            names = self._scaler.look(stats, time.monotonic())
            for ingest in self._ingests.values():
                ingest.use_emotions.remote(names)

    def _names(self, pool: str) -> list[str]:
        of = {"emotion": self._config.emotion.at_first, "recognition": self._config.recognition.replicas}
        return [f"{pool}-{i}" for i in range(of[pool])]

    def ready(self) -> Endpoints | None:
        """Where the deployment is reached, when all of it is ready; None when it is not."""
        assert self._ingest
        wanted = [self._others["hub"], self._others["emotion-0"], *self._ingest.actors.values()]
        refs = [actor.ready.remote() for actor in wanted]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=STATS_S)
        if len(done) < len(refs):
            return None
        try:
            hub, emotion, *ingests = ray.get(refs)
        except RayError:
            return None
        emotion.pop("modalities")
        audio, servers, listening = self._ingest.servers(ingests)
        endpoints = (*hub.pop("endpoints"), *listening)
        return Endpoints(audio, servers, **hub, **emotion, endpoints=endpoints)

    def wait_for_listener(self, timeout_s: float) -> bool:
        try:
            return bool(ray.get(self._actors["hub"].wait_for_subscriber.remote(timeout_s), timeout=timeout_s + 5))
        except RayError:
            return False

    def reload(self, checkpoint: str) -> tuple[Endpoints, Probe]:
        """Load and probe other weights beside the present ones, and judge by them from now on, running calls too.

        Raises:
            BcafError: why not; then nothing has changed.
        """
        model = self._model.model_copy(update={"checkpoint": checkpoint})
        emotions = self._emotions
        try:
            found = self._all_of({name: actor.prepare.remote(model) for name, actor in emotions.items()})
            described = [description for description, _ in found.values()]
            if len({description["model"] for description in described}) > 1:
                raise DeploymentError(f"{checkpoint} is not the same on all nodes; nothing has changed")
            endpoints = self.ready()
            if endpoints is None:
                raise DeploymentError("the deployment is not ready; nothing has changed")
        except BcafError:
            for actor in emotions.values():
                actor.discard.remote()
            raise
        wanted = described[0]["model"]
        refs = {name: actor.swap.remote(wanted) for name, actor in emotions.items()}
        for ingest in self._ingests.values():
            ingest.use_model.remote(wanted)
        with suppress(BcafError):  # one that has died meanwhile gets it later: see keep_model
            self._all_of(refs, SWAP_S)
        self._model, self._wanted = model, wanted
        described[0].pop("modalities")
        _, result = next(iter(found.values()))
        return replace(endpoints, **described[0]), result

    def keep_model(self, stats: dict[str, dict[str, Any]]) -> None:
        """After `stats`: an actor that was started again since the last reload gets the model of that."""
        if self._wanted is None:
            return
        for name, ingest in self._ingests.items():
            if stats.get(name, {}).get("model", self._wanted) != self._wanted:
                ingest.use_model.remote(self._wanted)
        for name, actor in self._emotions.items():
            if stats[name].get("model", self._wanted) != self._wanted and name not in self._preparing:
                self._preparing[name] = actor.prepare.remote(self._model)
        for name, ref in list(self._preparing.items()):
            if ray.wait([ref], timeout=0)[0]:
                del self._preparing[name]  # failed: again, at the next look
                self._emotions[name].swap.remote(self._wanted)

    def _all_of(self, refs: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """All answers; raises the BcafError of the first actor that gives none."""
        answers = {}
        for name, ref in refs.items():
            try:
                answers[name] = ray.get(ref, timeout=timeout_s or self._config.ray.start_timeout_s)
            except GetTimeoutError:
                raise DeploymentError(f"the {name} actor has not loaded it in time; nothing has changed") from None
            except RayError as error:
                raise plain(error, f"the {name} actor does not start") from None
        return answers

    @property
    def _actors(self) -> dict[str, Any]:
        return {**self._others, **self._ingests}

    @property
    def _ingests(self) -> dict[str, Any]:
        return self._ingest.actors if self._ingest else {}

    @property
    def _emotions(self) -> dict[str, Any]:
        return {name: actor for name, actor in self._actors.items() if name.startswith("emotion-")}

    def take_new_calls(self, taken: bool, hands_over: Callable[[str], bool] = lambda _: False) -> None:
        """Say it again and again: an ingest actor that was started again takes them.

        A replica that `hands_over` takes none, and its calls go on at others.
        """
        for name, ingest in self._ingests.items():
            ingest.take_new_calls.remote(taken, hands_over(name))

    def stats(self) -> dict[str, dict[str, Any]]:
        """What each actor says of itself; an actor that does not answer says `alive: False`."""
        refs = {name: actor.stats.remote() for name, actor in self._actors.items()}
        ray.wait(list(refs.values()), num_returns=len(refs), timeout=STATS_S)
        stats: dict[str, dict[str, Any]] = {}
        for name, ref in refs.items():
            try:
                stats[name] = {"alive": True, **ray.get(ref, timeout=0)}
            except RayError:  # GetTimeoutError too
                stats[name] = {"alive": False}
        return stats

    def metrics(self) -> Iterable[Metric]:
        """The samples of all actors now; see `actors.metrics`."""
        refs = {name: actor.metrics.remote() for name, actor in self._actors.items()}
        ray.wait(list(refs.values()), num_returns=len(refs), timeout=STATS_S)
        snapshots: dict[str, Snapshot | None] = {}
        for name, ref in refs.items():
            try:
                snapshots[name] = ray.get(ref, timeout=0)
            except RayError:  # GetTimeoutError too
                snapshots[name] = None
        self._restarts.see(snapshots)
        return merged(snapshots, self._restarts.counts)

    def trouble(self, stats: dict[str, dict[str, Any]]) -> str | None:
        """What keeps the deployment from working as it should at the moment; None: nothing."""
        assert self._cluster
        coming = self._scaler.coming if self._scaler else ()
        stats = {name: its for name, its in stats.items() if name not in coming}
        silent = [f"{name} does not answer" for name, its in stats.items() if not its["alive"]]
        waiting = [f"{name}: {its['not_ready']}" for name, its in stats.items() if "not_ready" in its]
        behind = [
            f"{name}: loads {self._wanted} again"
            for name, its in stats.items()
            if self._wanted and name in self._emotions and its.get("model", self._wanted) != self._wanted
        ]
        head = self._cluster.trouble()
        said = [reason for reason in (head, self._ingest and self._ingest.trouble) if reason]
        return "; ".join([*said, *silent, *waiting, *behind]) or None

    def keep_running(self, timeout_s: float) -> None:
        """Wait for `timeout_s`, unless Ray breaks meanwhile.

        Raises:
            DeploymentError: Ray has lost a process of its own and will not come back.
        """
        assert self._cluster
        deadline = time.monotonic() + timeout_s
        while True:
            self._cluster.check()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(LOOK_S, left))

    def down(self) -> None:
        """Let running calls end, publish what is left, stop the actors, and leave Ray."""
        if self._cluster is None:
            return
        hub = [name for name in self._others if name == "hub"]
        for names, farewell in ((list(self._ingests), "drain"), (hub, "close")):
            refs = [getattr(self._actors[name], farewell).remote() for name in names]
            deadline = time.monotonic() + 10
            for name, ref in zip(names, refs, strict=True):
                try:
                    ray.get(ref, timeout=max(0.0, deadline - time.monotonic()))
                except RayError:
                    log.warning("the %s actor did not answer while going down", name)
        for actor in self._actors.values():
            ray.kill(actor)
        self._others.clear()
        self._ingest = None
        self._cluster.leave()
        self._cluster = None

    def _check_resources(self) -> None:
        assert self._cluster
        emotion, ingest, recognition = self._config.emotion, self._config.ingest, self._config.recognition
        for key in ("ingest", "emotion", "recognition", "hub"):
            labels = getattr(self._config, key).label_selector
            if labels and not any(fits(node.labels, labels) for node in self._cluster.nodes()):
                wanted = ", ".join(f"{name}: {value}" for name, value in labels.items())
                raise DeploymentError(f"{key}.label_selector: no node of this Ray has the labels {wanted}")
        needed = {
            "CPU": sum(pool.replicas * pool.num_cpus for pool in (recognition, ingest)),
            "GPU": recognition.replicas * recognition.num_gpus + emotion.at_first * emotion.num_gpus,
        }
        needed["CPU"] += emotion.at_first * emotion.num_cpus
        remedy = "lower replicas, num_cpus or num_gpus of emotion or recognition, or ingest.num_cpus"
        self._cluster.require(needed, "the deployment", remedy)

    def _create(self, name: str, actor: type, needs: "_Needs", *args: Any) -> Any:
        options: dict[str, Any] = {"name": name, "namespace": self._config.name, **needs.options}
        options |= {"max_restarts": -1, "max_concurrency": 1000}
        try:
            return ray.remote(actor).options(**options).remote(*args)
        except (ValueError, RayError) as error:  # ValueError: the name is taken
            raise plain(error, f"the {name} actor does not start") from None
