"""What calls and channels are called where the protocol does not say."""

from datetime import UTC, datetime

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.ingest.link_protocol import MAX_NAME
from bcaf_stream.types import Channel, Role


class ChannelConfig(Config):
    """What a channel is called, and who speaks in it."""

    name: str = Field("customer", min_length=1, max_length=MAX_NAME)
    role: Role = "customer"

    @property
    def channel(self) -> Channel:
        return Channel(self.name, self.role)


def call_id(name: str, received_at: int) -> str:
    """The id of a call that begins now: its name and the time, UTC, to the millisecond.

    Args:
        received_at: unix time in ns.
    """
    seconds, rest = divmod(received_at, 1_000_000_000)
    return f"{name}-{datetime.fromtimestamp(seconds, UTC):%Y%m%d-%H%M%S}-{rest // 1_000_000:03d}"
