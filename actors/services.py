"""What live calls need of the process that they run in; none of it says how it is done."""

from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from actors.recognition import Recognition
from bcaf_stream.context import Answer, State
from bcaf_stream.events.event import Event
from bcaf_stream.events.owners import Claim
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.types import Modality, Utterance


class CallRuntime(Protocol):
    """What calls need of the process that they run in."""

    model_id: str
    modalities: tuple[Modality, ...]  # that the model was trained on

    @property
    def cutting(self) -> Executor: ...  # where the sound is cut that several people share: others do not wait

    @property
    def recognition(self) -> Recognition | None: ...  # None: speech is not recognised here

    def predict(self, state: State | None, utterance: Utterance, urgent: bool = True) -> Awaitable[Answer]: ...

    def publish(self, events: Sequence[Event], epoch: int) -> Awaitable[object]: ...  # of one call, by its owner

    def claim(self, begin: CallStart) -> Awaitable[Claim]: ...

    def claim_orphan(self, call: str) -> Awaitable[Claim | None]: ...  # None: somebody has it

    def release(self, call: str, epoch: int) -> None: ...

    def forward(
        self, call: str, message: TextUpdate
    ) -> Awaitable[None]: ...  # words of a call that runs elsewhere
