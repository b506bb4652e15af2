"""The place of `JournalConfig` until everybody takes it from `journal.sqlite`."""

from bcaf_stream.events.journal.sqlite import JournalConfig as JournalConfig
