"""The caller's side of the EmotionActors: asks the least loaded one, and another one when it dies."""

import asyncio
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError

from actors.emotion import Answer
from actors.policy import Replica, choose, rest_s
from bcaf_stream.errors import DeploymentError
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.types import Utterance


class EmotionPool:
    """`predict` on whichever replica lives. The request carries the whole state, so asking twice is harmless."""

    def __init__(self, handles: list[Any], retry_s: float) -> None:
        self._handles = handles
        self._retry_s = retry_s
        self._replicas = [Replica(0) for _ in handles]
        self._failures = [0] * len(handles)
        self.failovers = 0

    async def predict(self, state: DialogueState | None, utterance: Utterance, urgent: bool = True) -> Answer:
        """As EmotionActor.predict.

        Raises:
            DeploymentError: no replica answered for `retry_s`.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._retry_s
        while True:
            i = choose(self._replicas, loop.time())
            await asyncio.sleep(max(0.0, self._replicas[i].resting_until - loop.time()))
            try:
                return await self._ask(i, state, utterance, urgent)
            except RayActorError:
                self.failovers += 1
                self._failures[i] += 1
                rest = loop.time() + rest_s(self._failures[i])
                self._replicas[i] = replace(self._replicas[i], resting_until=rest)
                if loop.time() > give_up:
                    message = f"no emotion actor answered for {self._retry_s:g} s; see bcaf-serve status"
                    raise DeploymentError(message) from None

    async def _ask(self, i: int, state: DialogueState | None, utterance: Utterance, urgent: bool) -> Answer:
        self._replicas[i] = replace(self._replicas[i], outstanding=self._replicas[i].outstanding + 1)
        try:
            answer: Answer = await self._handles[i].predict.remote(state, utterance, urgent)
        finally:
            self._replicas[i] = replace(self._replicas[i], outstanding=self._replicas[i].outstanding - 1)
        self._failures[i] = 0
        return answer
