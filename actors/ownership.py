"""An ingest actor's side of who owns which call: it claims calls, says that it lives, and learns what it has lost.

A call that runs on another replica is taken over when its sender comes here: the other one is asked to let go of
it, and where it gives no answer its lease runs out (see bcaf_stream.events.owners).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.readiness import NotReadyError
from bcaf_stream.errors import BusyError, JournalError, LinkError
from bcaf_stream.events.owners import LEASE_S, Claim, name_of, owner_id
from bcaf_stream.ingest.media import CallStart, TextUpdate
from bcaf_stream.loops import faults, start_task

BEAT_S = 1.0
ANSWER_S = 5.0  # the hub gives none for so long: it is asked again
LET_GO_S = 1.0  # for the answer of the other replica
CLAIM_S = 8.0  # until a sender is told that nobody can say whose call it is
NOTICE_S = 2.5  # the other replica notices within that time that the sender has left it
RETRY_S = 0.1

T = TypeVar("T")


class Ownership:
    """The calls that are this process's.

    Args:
        name: of this actor, in the Ray namespace `namespace`.
        hub: the HubActor.
        lost: told of a call that is another one's by now.
    """

    def __init__(self, name: str, namespace: str, hub: Any, lost: Callable[[str], None]) -> None:
        self._owner = owner_id(name, time.time_ns())
        self._namespace, self._hub, self._lost = namespace, hub, lost
        self._held: dict[str, int] = {}  # calls and their epochs
        start_task("lease of the calls", self._stay())

    async def claim(self, begin: CallStart) -> Claim:
        """Make a call this process's, and know how far it has got.

        Raises:
            LinkError: it runs elsewhere, and `begin` is not of its sender.
            BusyError: nobody can say at the moment.
            JournalError: its events cannot be read.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        after: int | None = None
        while True:
            claim = await self._ask_hub(begin.call, after, LEASE_S)
            if claim.granted:
                return self._hold(begin.call, claim)
            passed_s = loop.time() - began_s
            if passed_s > CLAIM_S:
                raise BusyError(f"busy: call {begin.call} is another process's, which gives no answer")
            try:
                async with asyncio.timeout(LET_GO_S):
                    await (await self._peer(claim.holder)).let_go.remote(begin)
                after = claim.epoch
            except LinkError as error:
                if passed_s > NOTICE_S:
                    raise LinkError(_said(error)) from None
            except (RayError, NotReadyError, TimeoutError, ValueError):
                pass  # it is dead or hangs: its lease runs out
            await asyncio.sleep(RETRY_S)

    async def claim_orphan(self, call: str, silent_s: float) -> Claim | None:
        """A call whose owner has been silent for so long; None where somebody has it. Raises as `claim`."""
        claim = await self._ask_hub(call, None, silent_s)
        return self._hold(call, claim) if claim.granted else None

    def release(self, call: str, epoch: int) -> None:
        """The call is over here."""
        if self._held.get(call) == epoch:
            del self._held[call]

    async def forward(self, call: str, message: TextUpdate) -> None:
        """Give words to the process whose call that is.

        Raises:
            LinkError: no such call is running, or it takes no words.
        """
        nobody = LinkError("no such call is running: begin its audio first, with text: given")
        try:
            owner: str | None = await in_time(self._hub.owner_of.remote(call))
            if owner in (None, self._owner):
                raise nobody
            await in_time((await self._peer(owner or "")).take_words.remote(call, message))
        except LinkError as error:
            raise LinkError(_said(error)) from None
        except (RayError, NotReadyError, JournalError, TimeoutError, ValueError):
            raise nobody from None

    async def _ask_hub(self, call: str, after: int | None, silent_s: float) -> Claim:
        try:
            claim: Claim = await in_time(self._hub.claim.remote(call, self._owner, after, silent_s))
        except (RayError, NotReadyError, TimeoutError) as error:
            if is_final(error):
                raise
            raise BusyError("busy: the event hub is starting again; try again in a few seconds") from None
        return claim

    def _hold(self, call: str, claim: Claim) -> Claim:
        self._held[call] = claim.epoch
        return claim

    async def _peer(self, owner: str) -> Any:
        """Raises ValueError where there is none."""
        return await asyncio.to_thread(ray.get_actor, name_of(owner), self._namespace)

    async def _stay(self) -> None:
        while True:
            held = dict(self._held)
            try:
                for call in await in_time(self._hub.beat.remote(self._owner, held)):
                    if self._held.get(call) == held[call]:  # it was not given back meanwhile
                        self.release(call, held[call])
                        self._lost(call)
            except (RayError, NotReadyError, JournalError, TimeoutError) as error:
                if not isinstance(error, RayActorError | NotReadyError):
                    faults.count("lease of the calls", error)
            await asyncio.sleep(BEAT_S)


async def in_time(answer: Awaitable[T]) -> T:
    """The hub's answer, or a peer's; raises TimeoutError when it gives none."""
    async with asyncio.timeout(ANSWER_S):
        return await answer


def is_final(error: BaseException) -> bool:
    """Whether it is the hub's answer: asked again, it would say the same."""
    return isinstance(error, RayTaskError) and not isinstance(error, JournalError | NotReadyError)


def _said(error: LinkError) -> str:
    """What was said elsewhere; Ray wraps it in an error whose text is a traceback."""
    return str(getattr(error, "cause", None) or error)
