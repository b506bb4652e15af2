"""One live step against recomputing what it remembers: `python -m tests.benchmarks.step_vs_window`.

Runs on one thread; medians and 90th percentiles in milliseconds, so run it on a quiet machine. Without a
cache, the last 32 utterances alone give other numbers than a step, because layers reach back one window
each: `exact window` is the shortest stretch that gives the same. `analyzer` is what a live call pays: checks,
decision and a new state. The goal of five times cheaper is for the paper's size, where a step reads its weights
once and a window computes with them; a step of the shipped model (here with a context of 32, not its 16) consists
of calls, of which a window makes as many.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import (
    EncoderSpec,
    EncoderSpecs,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.model.weights import lay_out_for_steps
from bcaf_stream.types import Features

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
PAPER = BCAFConfig(labels=LABELS)
TURNS = 12


def milliseconds(works: Sequence[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """Median and 90th percentile of each, taken in turns: a machine is not equally fast all the time."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(TURNS):
        for work, times in zip(works, taken, strict=True):
            work()  # its weights are in the cache again
            for _ in range(repeats):
                start = time.perf_counter()
                work()
                times.append(1e3 * (time.perf_counter() - start))
    return [(statistics.median(times), statistics.quantiles(times, n=10)[-1]) for times in taken]


def analyzer_of(model: BCAF, folder: Path) -> DialogueAnalyzer:
    config = model.config
    specs = EncoderSpecs(
        audio=EncoderSpec(kind="random", name="random", width=config.audio_width),
        text=EncoderSpec(kind="random", name="random", width=config.text_width),
    )
    return DialogueAnalyzer(load_checkpoint(save_checkpoint(folder, model, encoders=specs)))


@torch.inference_mode()
def measure(config: BCAFConfig, repeats: int, folder: Path) -> list[tuple[str, float, float]]:
    torch.manual_seed(0)
    model = BCAF(config).eval()
    lay_out_for_steps(model)  # as in a live call
    U, exact = config.context, (config.layers + 1) * (config.context - 1) + 1
    audio, text = torch.randn(1, exact, config.audio_width), torch.randn(1, exact, config.text_width)
    mask = torch.ones(1, exact)
    state = model.initial_state()
    for u in range(U):
        _, state = model.step(state, audio[:, u], text[:, u])
    analyzer = analyzer_of(model, folder)
    features = Features(audio[0, 0].numpy().astype(np.float32), text[0, 0].numpy().astype(np.float32))
    _, live = analyzer.step(analyzer.initial(), features)
    rows = [
        (f"window of {U}", lambda: model(audio[:, :U], text[:, :U], mask[:, :U])),
        (f"exact window of {exact}", lambda: model(audio, text, mask)),
        ("step", lambda: model.step(state, audio[:, 0], text[:, 0])),
        ("analyzer, 1 dialogue", lambda: analyzer.step(live, features)),
        ("analyzer, 16 dialogues", lambda: analyzer.step_batch([live] * 16, [features] * 16)),
    ]
    names, works = zip(*rows, strict=True)
    return [(name, *times) for name, times in zip(names, milliseconds(works, repeats), strict=True)]


def main() -> None:
    torch.set_num_threads(1)
    shipped = load_checkpoint(find_checkpoint("compact")).model.config.model_copy(update={"context": 32})
    table = Table("model", "work", "median ms", "p90 ms", "window / this")
    for name, config, repeats in (("compact", shipped, 20), ("paper (MELD)", PAPER, 3)):
        with TemporaryDirectory() as folder:
            rows = measure(config, repeats, Path(folder) / "model")
        window = rows[0][1]
        for work, median, late in rows:
            table.add_row(name, work, f"{median:.2f}", f"{late:.2f}", f"{window / median:.1f}")
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
