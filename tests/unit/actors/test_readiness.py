"""How an actor starts: it waits for what may come, and says for what; a first start says what is wrong."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from actors.readiness import NotReadyError, Readiness
from bcaf_stream.errors import BcafError, EventError
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal import JournalConfig

WORDS = "my card number is"


def test_what_is_missing_for_a_moment_is_waited_for(tmp_path: Path):
    """A real hub, whose journal's folder is a file until somebody makes room."""
    folder = tmp_path / "journal"
    folder.write_text("in the way")
    binds = {"bus": {"bind": "tcp://127.0.0.1:*"}, "replay": {"bind": "tcp://127.0.0.1:*"}}
    config = EventHubConfig.model_validate({"journal": JournalConfig(path=folder / "events.sqlite"), **binds})

    async def scene() -> None:
        readiness = Readiness("the hub")
        starting = asyncio.create_task(readiness.attempt(lambda: asyncio.to_thread(EventHub, config)))
        with pytest.raises(EventError, match="journal"):
            await readiness.wait(first=True)
        assert readiness.stats["ready"] is False
        assert "journal" in readiness.stats["not_ready"]
        with pytest.raises(NotReadyError, match="the hub is not ready: "):
            readiness.check()
        folder.unlink()
        async with asyncio.timeout(20):
            hub = await starting
        readiness.done()
        await readiness.wait(first=True)
        readiness.check()
        assert readiness.stats == {"ready": True, "pid": os.getpid()}
        await asyncio.to_thread(hub.close)

    asyncio.run(scene())


def test_another_actors_trouble_is_not_ones_own():
    async def scene() -> None:
        readiness = Readiness("the ingest actor")

        async def fail() -> None:
            raise RayActorError

        trying = asyncio.create_task(readiness.attempt(fail))
        waiting = asyncio.create_task(readiness.wait(first=True))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert readiness.reason == "waits for another actor (RayActorError)"
        trying.cancel()
        waiting.cancel()

    asyncio.run(scene())


def test_an_error_of_ours_is_said_without_content():
    async def scene() -> None:
        readiness = Readiness("the ingest actor")

        async def fail() -> None:
            raise ValueError(WORDS)

        trying = asyncio.create_task(readiness.attempt(fail))
        with pytest.raises(BcafError, match=r"the ingest actor: ValueError at test_readiness\.py") as caught:
            await readiness.wait(first=True)
        assert WORDS not in str(caught.value)
        trying.cancel()

    asyncio.run(scene())


def test_the_hub_actor_loads_without_torch():
    """What it imports is most of the time that a killed hub is away."""
    heavy = ("torch", "transformers", "onnxruntime")
    script = f"import sys, actors.hub_actor; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
