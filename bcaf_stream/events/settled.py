"""The place of `settled` until everybody takes it from `progress`."""

from bcaf_stream.events.progress import settled as settled
