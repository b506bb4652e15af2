"""TranscriberActors on a real Ray: they give what the recogniser gives here, also when one of them is killed."""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import ray

from actors.batching import BatchConfig
from actors.recognition import Recognition
from actors.replica_pool import ReplicaPool
from actors.transcriber_actor import TranscriberActor
from bcaf_stream.audio.sources import FileSource
from bcaf_stream.demo import CALL
from bcaf_stream.errors import AsrError
from bcaf_stream.transcripts.asr import AsrConfig, load_transcriber
from bcaf_stream.transcripts.transcriber import Transcription
from bcaf_stream.types import SAMPLE_RATE, PcmN


@pytest.fixture
def actors(ray_session: None) -> Any:
    made: list[Any] = []

    def make(count: int, asr: AsrConfig) -> list[Any]:
        options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 1000}
        made.extend(
            ray.remote(TranscriberActor).options(**options).remote(asr, BatchConfig()) for _ in range(count)
        )
        return made

    yield make
    for actor in made:
        ray.kill(actor)


def segments() -> list[PcmN]:
    """Six stretches of the demo call, two seconds each."""
    with FileSource(CALL) as source:
        first, *others = source
        customer = [first, *(chunk for chunk in others if chunk.channel == first.channel)]
    doubled = np.repeat(np.concatenate([chunk.samples for chunk in customer]), SAMPLE_RATE // customer[0].rate)
    return [doubled[SAMPLE_RATE * second : SAMPLE_RATE * (second + 2)] for second in range(6, 36, 5)]


async def recognised(pool: ReplicaPool, sounds: Sequence[PcmN], at_once: int) -> list[Transcription | None]:
    recognition = Recognition(lambda samples: pool.ask("transcribe", samples), at_once)
    return await asyncio.gather(*(recognition.transcribe(samples, lambda: True) for samples in sounds))


def test_the_same_words_as_here_also_when_one_of_them_dies(actors: Any):
    asr = AsrConfig()
    here = load_transcriber(asr)
    assert here is not None
    sounds = segments()
    expected = [here.transcribe(samples) for samples in sounds]
    assert sum(bool(one.text) for one in expected) >= 4
    pool = ReplicaPool("recognition", dict(zip("ab", actors(2, asr), strict=True)), retry_s=60)

    async def check() -> None:
        told = await pool.describe()
        assert told == {"asr": here.name, "at_once": 2}
        assert await recognised(pool, sounds, 4) == expected
        victim = actors(0, asr)[0]
        running = asyncio.create_task(recognised(pool, 4 * sounds, 4))
        os.kill((await victim.stats.remote())["pid"], signal.SIGKILL)
        assert await running == 4 * expected

    asyncio.run(check())
    assert pool.failovers > 0


def test_a_recogniser_that_cannot_be_loaded_says_why(actors: Any):
    (actor,) = actors(1, AsrConfig(kind="whisper", model="/nowhere/whisper"))
    with pytest.raises(AsrError, match=r"asr\.model /nowhere/whisper: cannot be loaded on cpu"):
        ray.get(actor.ready.remote(True), timeout=60)
    assert ray.get(actor.stats.remote())["ready"] is False
