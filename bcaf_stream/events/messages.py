"""The name of `event` until everybody uses that one."""

from bcaf_stream.events.event import *  # noqa: F403
