"""Other weights in the middle of dialogues: two real emotion actors and their pool, in this process."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from actors.batching import BatchConfig
from actors.dialogues import Dialogue, EmotionPool
from actors.emotion_actor import EmotionActor
from actors.replica_pool import ReplicaPool
from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import CheckpointError
from bcaf_stream.types import EmotionPrediction, Utterance
from tests.tiny import tiny_checkpoint
from tests.unit.actors.local_actor import Handle
from tests.waiting import eventually

TURNS = 12


@pytest.fixture(autouse=True)
def _survives_its_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.replica_actor.exit_on_death", lambda: None)


@pytest.fixture(scope="module")
def other(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("other") / "other", model_seed=1)


def model(folder: Path) -> ModelConfig:
    return ModelConfig(checkpoint=str(folder), device="cpu", threads=1)


def spoken(call: str, index: int) -> Utterance:
    rng = np.random.default_rng(index)
    sound = (rng.standard_normal(16_000) * 3000).astype(np.int16)
    words = f"well this is what I say number {index}"
    return Utterance(call, "customer", "customer", index, 2000 * index, 2000 * index + 1000, sound, words, "given")


def judged_by(folder: Path) -> list[EmotionPrediction]:
    """What one engine says of a dialogue, alone."""
    engine, found = EmotionEngine(model(folder)), []
    state = engine.initial_state()
    for index in range(TURNS):
        (prediction,), (state,) = engine.step([state], engine.encode([spoken("alone", index)]))
        found.append(prediction)
    return found


def run(tiny: Path, script: Callable[[list[EmotionActor], EmotionPool], Awaitable[None]]) -> None:
    async def whole() -> None:
        actors = [EmotionActor(model(tiny), BatchConfig()) for _ in range(2)]
        handles = {str(n): Handle(actor) for n, actor in enumerate(actors)}
        pool = EmotionPool(ReplicaPool("emotion", handles, 20))
        pool.model = (await pool.replicas.describe())["model"]
        await asyncio.gather(*(actor.ready(True) for actor in actors))
        await script(actors, pool)

    asyncio.run(whole())


def test_dialogues_go_on_with_other_weights_as_if_these_had_judged_all_of_them(tiny: Path, other: Path):
    before, after = judged_by(tiny), judged_by(other)

    async def script(actors: list[EmotionActor], pool: EmotionPool) -> None:
        found: dict[str, list[EmotionPrediction]] = {call: [] for call in "abcd"}

        async def talk(call: str) -> None:
            dialogue: Dialogue | None = None
            for index in range(TURNS):
                prediction, dialogue = await pool.predict(dialogue, spoken(call, index))
                found[call].append(prediction)

        async def swap(name: str) -> None:
            await eventually(lambda: min(map(len, found.values())) >= 3, 60)
            assert await actors[0].swap(name)
            pool.model = name  # here one has it and the other not yet: nobody is judged by the wrong one
            assert await actors[1].swap(name)
            assert not await actors[1].swap("another")

        prepared = await asyncio.gather(*(actor.prepare(model(other)) for actor in actors))
        await asyncio.gather(swap(prepared[0][0]["model"]), *map(talk, found))
        for predictions in found.values():
            models = [prediction.model for prediction in predictions]
            turn = models.index(after[0].model)
            assert turn >= 3
            assert models == [before[0].model] * turn + [after[0].model] * (TURNS - turn)
            for index, prediction in enumerate(predictions):
                expected = (before if index < turn else after)[index]
                assert prediction.probs == pytest.approx(expected.probs, abs=1e-5)

    run(tiny, script)


def test_weights_that_do_not_pass_change_nothing(tiny: Path, tmp_path: Path):
    strange = tiny_checkpoint(tmp_path / "strange", seed=1)

    async def script(actors: list[EmotionActor], pool: EmotionPool) -> None:
        with pytest.raises(CheckpointError, match="no such checkpoint folder"):
            await actors[0].prepare(model(tmp_path / "none"))
        with pytest.raises(CheckpointError, match="other encoders"):
            await actors[0].prepare(model(strange))
        prediction, _ = await pool.predict(None, spoken("a", 0))
        assert prediction.model == pool.model == (await actors[0].stats())["model"]

    run(tiny, script)


def test_an_actor_that_comes_back_with_older_weights_is_not_asked(tiny: Path, other: Path):
    async def script(actors: list[EmotionActor], pool: EmotionPool) -> None:
        described, _ = await actors[1].prepare(model(other))
        await actors[1].swap(described["model"])
        pool.model = described["model"]
        answers = await asyncio.gather(*(pool.predict(None, spoken(call, 0)) for call in "abcdef"))
        assert {prediction.model for prediction, _ in answers} == {described["model"]}
        assert pool.replicas.failovers >= 1

    run(tiny, script)
