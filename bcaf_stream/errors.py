"""Every error a user can meet. Each has a one-line message that names the thing and the way out.

    BcafError                 exit code 1: failed at run time
    ├── SourceError           audio that cannot be read: missing, empty, not audio, not finite
    ├── TranscriptError       a transcript that cannot be read or does not fit its call
    ├── AsrError              speech recognition that cannot be loaded or fails
    ├── EncoderError          encoder weights that cannot be loaded or do not match
    ├── CheckpointError       a model folder that is missing, broken or of another kind
    ├── ModelError            numbers that are not finite, shapes that do not fit
    ├── EventError            events that cannot be encoded, stored or published
    │   ├── JournalError      the journal cannot be opened, read or written
    │   │   ├── DamagedError  what is asked for lies in a part of it that is damaged
    │   │   └── FencedError   another owner has taken over what is to be written
    │   ├── SupersededError   the call belongs to another process by now
    │   └── DeliveryError     a bridge's other side did not take an event, and may later
    ├── LinkError             a peer that breaks its protocol, or cannot be reached
    │   └── BusyError         no more calls can be taken now
    ├── DeploymentError       a Ray deployment that cannot be started, reached or stopped
    ├── LoopError             a thread of this process that others depend on has died
    ├── DataError             a training corpus, manifest or feature shard that is not usable
    └── UsageError            exit code 2: wrong usage
        └── ConfigError       a wrong key, type or value in the configuration

One positional argument each, so that all of them pickle (Ray moves exceptions between processes).
Messages never contain sound or words of a call: those are personal data.
"""


class BcafError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class SourceError(BcafError):
    pass


class TranscriptError(BcafError):
    pass


class AsrError(BcafError):
    pass


class EncoderError(BcafError):
    pass


class CheckpointError(BcafError):
    pass


class ModelError(BcafError):
    pass


class EventError(BcafError):
    pass


class JournalError(EventError):
    pass


class DamagedError(JournalError):
    pass


class FencedError(JournalError):
    pass


class SupersededError(EventError):
    pass


class DeliveryError(EventError):
    not_before_s = 0.0  # what the other side asked for


class LinkError(BcafError):
    pass


class BusyError(LinkError):
    pass


class DeploymentError(BcafError):
    pass


class LoopError(BcafError):
    pass


class DataError(BcafError):
    pass


class UsageError(BcafError):
    exit_code = 2


class ConfigError(UsageError):
    pass
