"""The supervisor's page beside a deployment: `monitor:` of its configuration, and the demo's."""

from pathlib import Path

from bcaf_stream.loops import start_thread
from bcaf_stream.monitor.config import MonitorConfig
from bcaf_stream.monitor.server import Monitor

END_S = 10.0


class MonitorPage:
    """Serves the page in a thread until `close`.

    Args:
        config: its `hub` says the key and how far back; the addresses are the deployment's.
        events: where the deployment publishes.
        replay: where it replays.
        sound: the folder in which it keeps evidence sound, where it does.

    Raises:
        BcafError: the address cannot be bound, or a file (key, tokens, certificate, audit) is no good.
    """

    def __init__(self, config: MonitorConfig, events: str, replay: str, sound: Path | None = None) -> None:
        hub = config.hub.model_copy(update={"events": events, "replay": replay})
        self._monitor = Monitor(config.model_copy(update={"hub": hub, "sound": config.sound or sound}))
        self.address = self._monitor.address
        self._thread = start_thread("monitor", lambda ending: self._monitor.run(lambda _: None))

    def check(self) -> None:
        """Raises LoopError when the page is served no more, or learns of nothing any more."""
        self._thread.check()
        self._monitor.site.follower.check()

    def close(self) -> None:
        self._thread.ending.set()  # first: what returns before it was asked to is a death
        self._monitor.stop()
        self._thread.end(END_S)
