"""What Ray Train costs and what a second worker gives; run by hand on an idle machine.

    python -m tests.benchmarks.train_overhead [--epochs 4] [--width 256] [--rounds 2] [--batch 384]

Utterances per second, from the second epoch on, of a corpus as large as MELD (9,600 utterances): of whole epochs,
dev pass and checkpoint included, and of the optimiser's steps alone. The rounds of the three kinds are interleaved
and the best of each counts. Goals: one worker on Ray at least 0.95 of the plain loop; two at least 1.7 of one.

A batch of dialogues (six utterances each) is divided among the workers: what a second one gives depends on how
much there is to divide beside the exchange of gradients and the optimiser's step, which each worker has whole.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import ray
import torch

from tests.unit.training.made import prepared, records, train_config
from training.fit import fit_here
from training.ray_train import fit_on_ray
from training.trainer import Record

KINDS = {"plain loop": 0, "Ray, one worker": 1, "Ray, two workers": 2}


class Rates(NamedTuple):
    """Utterances per second."""

    epochs: float
    steps: float

    def best(self, other: "Rates") -> "Rates":
        return Rates(*map(max, self, other))


def throughput(manifest: Path, out: Path, workers: int, utterances: int, chosen: argparse.Namespace) -> Rates:
    config = train_config(
        manifest,
        out,
        loop__epochs=chosen.epochs,
        loop__patience=chosen.epochs,
        loop__batch=chosen.batch,
        model__width=chosen.width,
        model__latent=chosen.width // 2,
        model__feed_forward=2 * chosen.width,
        model__layers=3,
        ray__num_workers=workers,
    )
    at, steps = [], []

    def on_epoch(record: Record) -> None:
        at.append(time.perf_counter())
        steps.append(record["utterances_per_s"])

    train = fit_on_ray if workers else fit_here
    train(config, on_epoch)
    return Rates(utterances * (len(at) - 1) / (at[-1] - at[0]), statistics.mean(steps[1:]))


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("epochs", 4), ("width", 256), ("rounds", 2), ("dialogues", 1600), ("batch", 384)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    rows = records({"train": chosen.dialogues, "dev": 20, "test": 2})
    utterances = sum(row["split"] == "train" for row in rows)
    best = dict.fromkeys(KINDS, Rates(0.0, 0.0))
    with tempfile.TemporaryDirectory() as scratch:
        manifest = prepared(Path(scratch), rows)
        for turn in range(chosen.rounds):
            for kind, workers in KINDS.items():
                out = Path(scratch) / f"{workers}-{turn}"
                found = throughput(manifest, out, workers, utterances, chosen)
                best[kind] = best[kind].best(found)
                load = os.getloadavg()[0]
                print(f"{kind}: {found.epochs:.0f}, steps alone {found.steps:.0f} (load {load:.1f})", flush=True)
    for name in Rates._fields:
        plain, one, two = (getattr(rates, name) for rates in best.values())
        print(f"{name}: one / plain loop {one / plain:.2f} (goal 0.95); two / one {two / one:.2f} (goal 1.7)")


if __name__ == "__main__":
    main()
