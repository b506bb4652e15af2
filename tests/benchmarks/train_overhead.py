"""What Ray Train costs and what a second worker gives; run by hand on an idle machine.

    python -m tests.benchmarks.train_overhead [--epochs 6] [--width 256] [--rounds 2] [--batch 32]

Utterances per second of whole epochs, dev pass and checkpoint included, from the second epoch on. The rounds
of the three kinds are interleaved and the best of each counts. Goals: one worker on Ray at least 0.95 of the
plain loop; two workers at least 1.7 of one.

A batch of dialogues is divided among the workers: what a second one gives depends on how much there is to divide
beside the exchange of gradients and the optimiser's step, which each worker has whole.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

import ray
import torch

from tests.unit.training.made import prepared, records, train_config
from training.fit import fit_here
from training.ray_train import fit_on_ray

KINDS = {"plain loop": 0, "Ray, one worker": 1, "Ray, two workers": 2}


def throughput(
    manifest: Path, out: Path, workers: int, epochs: int, width: int, batch: int, utterances: int
) -> float:
    config = train_config(
        manifest,
        out,
        loop__epochs=epochs,
        loop__patience=epochs,
        loop__batch=batch,
        model__width=width,
        model__latent=width // 2,
        model__feed_forward=2 * width,
        model__layers=3,
        ray__num_workers=workers,
    )
    at = []
    train = fit_on_ray if workers else fit_here
    train(config, lambda record: at.append(time.perf_counter()))
    return utterances * (len(at) - 1) / (at[-1] - at[0])


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("epochs", 6), ("width", 256), ("rounds", 2), ("dialogues", 400), ("batch", 32)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    rows = records({"train": chosen.dialogues, "dev": 20, "test": 2})
    utterances = sum(row["split"] == "train" for row in rows)
    best = dict.fromkeys(KINDS, 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        manifest = prepared(Path(scratch), rows)
        for turn in range(chosen.rounds):
            for kind, workers in KINDS.items():
                out = Path(scratch) / f"{workers}-{turn}"
                found = throughput(manifest, out, workers, chosen.epochs, chosen.width, chosen.batch, utterances)
                best[kind] = max(best[kind], found)
                print(f"{kind}: {found:.0f} utterances/s (load {os.getloadavg()[0]:.1f})", flush=True)
    plain, one, two = best.values()
    print(f"one worker / plain loop {one / plain:.2f} (goal 0.95); two workers / one {two / one:.2f} (goal 1.7)")


if __name__ == "__main__":
    main()
