"""The journal: every event of every call, in one order, before anybody is told."""

from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.journal.sqlite import JournalConfig

__all__ = ["Journal", "JournalConfig"]
