"""Ray is started and its actors are created here and nowhere else.

The process that holds a Deployment owns it: when it ends, the actors end, and a Ray that it started too.
"""

import logging
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.config import ServeConfig
from actors.emotion import EmotionActor
from actors.hub import HubActor
from actors.ingest import IngestActor
from bcaf_stream.errors import BcafError, DeploymentError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the deployment is reached: `send` goes to `audio`, `listen` to `events` and `replay`.

    `doors` are all of those by which live calls come in, by protocol.
    """

    audio: str
    doors: dict[str, str]
    events: str
    replay: str
    model: str
    caveats: tuple[str, ...]


class Deployment:
    """HubActor, EmotionActors and IngestActor on a local Ray or a cluster.

    Use as a context manager, or `up()` and `down()`.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._hub: Any = None
        self._emotions: list[Any] = []
        self._ingest: Any = None
        self._model: tuple[Any, ...] = ()  # what the IngestActor must know of it
        self._lost: list[str] = []  # actors whose loop ended with them
        self._owns_ray = self._connected = False
        self._running: dict[Any, str] = {}  # the loops that never end by themselves, and whose they are

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
        config = self._config
        self._connect()
        self._check_resources()
        threads = max(1, int(config.emotion.num_cpus))
        model = config.analyzer.model.model_copy(update={"threads": config.analyzer.model.threads or threads})
        self._hub = self._create("hub", HubActor, 0, 0, config.hub)
        names = [f"emotion-{i}" for i in range(config.emotion.replicas)]
        cpus, gpus = config.emotion.num_cpus, config.emotion.num_gpus
        self._emotions = [
            self._create(name, EmotionActor, cpus, gpus, model, config.emotion.batch) for name in names
        ]
        self._ingest = self._create("ingest", IngestActor, config.ingest.num_cpus, 0, config, names, "hub")
        # All start at the same time; asked in the order in which they can know that they fail.
        events = self._get(self._hub.endpoint.remote(), "the hub actor")
        replay = self._get(self._hub.replay_endpoint.remote(), "the hub actor")
        audio = self._get(self._ingest.endpoint.remote(), "the ingest actor")
        described = self._get(self._emotions[0].describe.remote(), "the emotion actor")
        self._model = (described["model"], described.pop("modalities"))
        doors = self._get(self._ingest.open_doors.remote(*self._model), "the ingest actor")
        endpoints = Endpoints(audio=audio, doors=doors, events=events, replay=replay, **described)
        self._running = {self._loop(name): name for name in ("ingest", "hub")}
        return endpoints

    def wait_for_listener(self, timeout_s: float) -> bool:
        return bool(self._get(self._hub.wait_for_subscriber.remote(timeout_s), "the hub actor"))

    def stats(self) -> dict[str, dict[str, Any]]:
        """What each actor says of itself; an actor that does not answer says `alive: False`."""
        named = {"hub": self._hub, "ingest": self._ingest}
        named |= {f"emotion-{i}": handle for i, handle in enumerate(self._emotions)}
        refs = {name: handle.stats.remote() for name, handle in named.items()}
        stats: dict[str, dict[str, Any]] = {}
        for name, ref in refs.items():
            try:
                stats[name] = {"alive": True, **ray.get(ref, timeout=5)}
            except (RayActorError, GetTimeoutError):
                stats[name] = {"alive": False}
        return stats

    def keep_running(self, timeout_s: float) -> None:
        """Wait up to `timeout_s`; start the loop of an actor that Ray restarted again, once it answers.

        Raises:
            DeploymentError: a loop broke for another reason than its actor's death.
        """
        for name in [name for name in self._lost if self._answers(name)]:
            self._lost.remove(name)
            self._running[self._loop(name)] = name
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        for ref in done:
            name = self._running.pop(ref)
            try:
                ray.get(ref)
            except RayActorError:
                log.warning("the %s actor died; Ray restarts it", name)
                self._lost.append(name)
            except RayTaskError as error:
                raise DeploymentError(f"the {name} actor broke: {error.cause}") from None

    def down(self) -> None:
        """Let running calls end, publish what is left, stop the actors, and leave Ray."""
        if not self._connected:
            return
        for handle, farewell in ((self._ingest, "drain"), (self._hub, "close")):
            if handle is not None:
                try:
                    ray.get(getattr(handle, farewell).remote(), timeout=10)
                except (RayError, GetTimeoutError):
                    log.warning("an actor did not answer while going down")
        for handle in (self._ingest, self._hub, *self._emotions):
            if handle is not None:
                ray.kill(handle)
        if self._owns_ray:
            ray.shutdown()
        self._connected = False

    def _answers(self, name: str) -> bool:
        try:
            ray.get((self._ingest if name == "ingest" else self._hub).endpoint.remote(), timeout=1)
        except (RayActorError, GetTimeoutError):
            return False
        return True

    def _loop(self, name: str) -> Any:
        return self._ingest.serve.remote(*self._model) if name == "ingest" else self._hub.beat.remote()

    def _connect(self) -> None:
        settings, address = self._config.ray, self._config.ray.address
        self._owns_ray = not ray.is_initialized()
        self._connected = True
        if not self._owns_ray:
            return  # the embedding program has its own Ray
        try:
            ray.init(
                address=address or "local",
                num_cpus=None if address else settings.num_cpus,
                include_dashboard=None if address else False,
                runtime_env=settings.runtime_env or None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = (
                f"the Ray cluster at {address} cannot be reached" if address else "a local Ray cannot be started"
            )
            raise DeploymentError(f"{where}: {str(error).splitlines()[0]}") from None

    def _check_resources(self) -> None:
        emotion, ingest = self._config.emotion, self._config.ingest
        needed = {
            "CPU": emotion.replicas * emotion.num_cpus + ingest.num_cpus,
            "GPU": emotion.replicas * emotion.num_gpus,
        }
        there = ray.cluster_resources()
        for kind, amount in needed.items():
            if amount > there.get(kind, 0.0):
                raise DeploymentError(
                    f"the deployment needs {amount:g} {kind}s and Ray has {there.get(kind, 0.0):g}: "
                    "lower emotion.replicas, emotion.num_cpus, emotion.num_gpus or ingest.num_cpus"
                )

    def _create(self, name: str, actor: type, num_cpus: float, num_gpus: float, *args: Any) -> Any:
        options = {"name": name, "namespace": self._config.name, "num_cpus": num_cpus, "num_gpus": num_gpus}
        options |= {"max_restarts": -1, "max_concurrency": 1000}
        return ray.remote(actor).options(**options).remote(*args)

    def _get(self, ref: Any, who: str) -> Any:
        try:
            return ray.get(ref, timeout=self._config.ray.start_timeout_s)
        except GetTimeoutError:
            seconds = f"{self._config.ray.start_timeout_s:g}"
            message = f"{who} did not start within {seconds} s: is the cluster busy? (ray.start_timeout_s)"
            raise DeploymentError(message) from None
        except RayTaskError as error:
            raise _plain(error.cause, who) from None
        except RayActorError as error:
            raise _plain(error, who) from None


def _plain(error: BaseException, who: str) -> BcafError:
    """The reason in one line: an actor's own BcafError where there is one."""
    if isinstance(error, BcafError):
        return error
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    own = [text for text in lines if text.startswith("bcaf_stream.errors.")]
    if own:
        return DeploymentError(own[-1].partition(": ")[2])
    return DeploymentError(f"{who} does not start: {lines[-1] if lines else type(error).__name__}")
