"""The name of `auth` until everybody uses that one."""

from bcaf_stream.events.auth import *  # noqa: F403
from bcaf_stream.events.event import EVERYTHING as EVERYTHING
