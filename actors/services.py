"""What live calls need of the process that they run in; none of it says how it is done."""

from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from actors.history import Answer
from actors.overload import Overload
from bcaf_stream.events.messages import Event
from bcaf_stream.events.progress import Progress
from bcaf_stream.model.state import DialogueState
from bcaf_stream.transcripts.asr import Transcriber
from bcaf_stream.types import Modality, Utterance


class Services(Protocol):
    """What a session needs of the house around it."""

    model_id: str
    modalities: tuple[Modality, ...]  # that the model was trained on
    overload: Overload

    @property
    def transcriber(self) -> Transcriber | None: ...

    @property
    def executor(self) -> Executor: ...

    def predict(
        self, state: DialogueState | None, utterance: Utterance, urgent: bool = True
    ) -> Awaitable[Answer]: ...

    def publish(self, events: Sequence[Event]) -> Awaitable[object]: ...


class House(Services, Protocol):
    """What calls need of the process that they run in."""

    def progress(self, call: str) -> Awaitable[Progress | None]: ...
