"""What `bcaf-stream monitor` is told: which hub it reads, where it listens, and who may look."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.ingest.security import EndpointConfig

HISTORY_DAYS = 7.0


class HubAddress(Config):
    """The hub's two addresses; `key` is a file of `bcaf-stream keys new`, `topics` what that key is for.

    `history_days` is how far back the page knows calls; the hub's journal may know less.
    """

    events: str = "tcp://127.0.0.1:5561"
    replay: str = "tcp://127.0.0.1:5562"
    key: Path | None = None
    topics: tuple[str, ...] = ()
    history_days: float = Field(HISTORY_DAYS, gt=0, le=36_500)


class MonitorConfig(EndpointConfig):
    """The page's address, and who may look at it; see EndpointConfig for what all servers have in common.

    Beyond this machine it takes TLS (`certificate` and `key`, or `behind_proxy`) and `tokens`, or a proxy that
    says who looks: `user_header` names its header, `allow` its network. `audit` gets a line for each call that is
    looked at, each export and each sound that is played. `max_connections` pages may be open at once. `sound` is
    the folder in which a deployment with `ingest.record` keeps evidence sound, FILE.sound beside its journal FILE;
    it must be within reach of this machine.
    """

    port: int = Field(8780, ge=0, le=65_535)
    hub: HubAddress = HubAddress()
    audit: Path = Path("bcaf-monitor-audit.jsonl")
    sound: Path | None = None
    user_header: str | None = Field(None, pattern=r"^[A-Za-z0-9-]+$")

    @model_validator(mode="after")
    def _somebody_answers_for_who_looks(self) -> Self:
        if self.user_header and not (self.behind_proxy and self.allow):
            raise ValueError(
                "user_header is a proxy's word: give behind_proxy: true, and allow: [its network], so that nobody"
                " else can say it"
            )
        if not self.local and not self.insecure and not self.asks_for_secret and not self.user_header:
            raise ValueError(
                f"host {self.host} is not this machine alone, and the page shows what was said: give tokens: FILE,"
                " or user_header with behind_proxy: true and allow: [NETWORK]"
            )
        return self
