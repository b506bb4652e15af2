"""Whose turn it is to be recognised: fresh segments before those that are heard again, so many at once."""

import asyncio

import numpy as np
import pytest

from actors.recognition import Recognition
from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import PcmN


class Recogniser:
    """Says how long the sound is, when it is let; fails for sound without samples."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.heard: list[int] = []
        self.running = self.most = 0

    async def hear(self, samples: PcmN) -> Transcription:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        self.heard.append(len(samples))
        if not len(samples):
            raise AsrError("nothing to hear")
        return Transcription(str(len(samples)))


def sound(samples: int) -> PcmN:
    return np.zeros(samples, np.int16)


def test_what_is_heard_again_comes_after_all_others():
    async def check() -> None:
        recogniser = Recogniser()
        recognition = Recognition(recogniser.hear)
        again = [False, True, True, False, False]
        tasks = [
            asyncio.create_task(recognition.transcribe(sound(n), lambda: True, which))
            for n, which in enumerate(again, 1)
        ]
        await asyncio.sleep(0)
        assert recognition.waiting == 5
        recogniser.gate.set()
        assert [found and found.text for found in await asyncio.gather(*tasks)] == ["1", "2", "3", "4", "5"]
        assert recogniser.heard == [1, 4, 5, 2, 3]
        assert (recogniser.most, recognition.waiting) == (1, 0)

    asyncio.run(check())


def test_as_many_at_once_as_there_is_room_for_whoever_fails_or_is_cancelled():
    async def check() -> None:
        recogniser = Recogniser()
        recognition = Recognition(recogniser.hear, at_once=3)
        tasks = [asyncio.create_task(recognition.transcribe(sound(n), lambda: True)) for n in range(12)]
        await asyncio.sleep(0)
        for cancelled in (tasks[1], tasks[5]):  # one that is heard, one that waits
            cancelled.cancel()
        recogniser.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], AsrError)
        assert [type(found[n]) for n in (1, 5)] == 2 * [asyncio.CancelledError]
        assert sorted(recogniser.heard) == [0, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        assert recogniser.most == 3
        assert await recognition.transcribe(sound(7), lambda: True) == Transcription("7")

    asyncio.run(check())


def test_a_turn_that_was_given_to_a_cancelled_one_goes_on_to_the_next():
    async def check() -> None:
        recogniser = Recogniser()
        recognition = Recognition(recogniser.hear)
        first, second, third = (
            asyncio.create_task(recognition.transcribe(sound(n), lambda: True)) for n in (1, 2, 3)
        )
        await asyncio.sleep(0)
        recogniser.gate.set()
        while not first.done():
            await asyncio.sleep(0)
        second.cancel()  # its turn was given to it just now
        assert await third == Transcription("3")
        with pytest.raises(asyncio.CancelledError):
            await second
        assert recogniser.heard == [1, 3]

    asyncio.run(asyncio.wait_for(check(), 10))


def test_what_is_not_wanted_any_more_is_not_heard():
    async def check() -> None:
        recogniser = Recogniser()
        recogniser.gate.set()
        assert await Recognition(recogniser.hear).transcribe(sound(1), lambda: False) is None
        assert recogniser.heard == []

    asyncio.run(check())
