"""The journal: every event of every call, in one order, before anybody is told."""

from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal

__all__ = ["Journal", "JournalConfig"]
