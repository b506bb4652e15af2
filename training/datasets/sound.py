"""The sound of corpus clips: decoded once to find out what is usable, and again when features are computed."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bcaf_stream.audio.decoder import Decoder
from bcaf_stream.audio.resample import Resampler
from bcaf_stream.errors import SourceError
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, PcmN
from training.datasets.manifest import Manifest, Row, content_key

SHORTEST_MS = 100  # less than this is no utterance
LONGEST_S = 60.0  # of a clip; longer ones are listed, because published clips of that length are mistakes
MOST_TIMES, MORE_S = 2.0, 5.0  # a clip that is longer than its utterance by both holds something else beside it
BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Heard:
    """What listening to the clips found: the manifest with their keys, and what was wrong with whom."""

    manifest: Manifest
    missing: tuple[str, ...]
    broken: tuple[str, ...]
    damaged: tuple[str, ...]
    overlong: tuple[str, ...]
    mistaken: tuple[str, ...]


def decode(path: Path, cut_ms: tuple[int, int] | None = None) -> tuple[PcmN, str]:
    """Mono PCM at SAMPLE_RATE of a clip or of a part of it, and what is wrong with it ("" = nothing).

    What can be decoded of a damaged clip is returned.

    Raises:
        SourceError: not even SHORTEST_MS of it can be.
    """
    damage = ""
    chunks: list[PcmN] = []
    with closing(Decoder(path)) as decoder:
        resampler = Resampler(decoder.info.rate)
        done = 0
        try:
            while (block_CN := decoder.read(BLOCK)).shape[1]:
                mono_N = block_CN[0] if len(block_CN) == 1 else np.rint(block_CN.mean(axis=0)).astype(np.int16)
                chunk = AudioChunk("", done, decoder.info.rate, mono_N)
                chunks += [out.samples for out in resampler.push(chunk)]
                done += len(mono_N)
        except SourceError as error:
            damage = str(error)
        chunks += [out.samples for out in resampler.flush()]
    samples_N = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    if cut_ms is not None:
        samples_N = samples_N[cut_ms[0] * SAMPLE_RATE // 1000 : cut_ms[1] * SAMPLE_RATE // 1000]
    if len(samples_N) * 1000 < SHORTEST_MS * SAMPLE_RATE:
        raise SourceError(damage or f"{path}: holds less than {SHORTEST_MS} ms of sound")
    return samples_N, damage


def listen(
    manifest: Manifest, workers: int = 4, progress: Callable[[Iterable[Row]], Iterable[Row]] = iter
) -> Heard:
    """Decode every clip; an utterance whose clip is missing, broken, or not its own stays, with its text alone.

    Not its own is a clip of minutes for an utterance that the corpus says took seconds.
    """
    kinds = ("missing", "broken", "damaged", "overlong", "mistaken")
    found: dict[str, list[str]] = {kind: [] for kind in kinds}

    def one(row: Row) -> Row:
        path = manifest.sound_of(row)
        if path is None:
            return row
        if not path.is_file():
            found["missing"].append(str(row.audio))
            return replace(row, audio=None, cut_ms=None)
        try:
            samples_N, damage = decode(path, row.cut_ms)
        except SourceError:
            found["broken"].append(str(row.audio))
            return replace(row, audio=None, cut_ms=None)
        if damage:
            found["damaged"].append(str(row.audio))
        stated_s = (row.end_ms - row.start_ms) / 1000
        if row.cut_ms is None and len(samples_N) > (MOST_TIMES * stated_s + MORE_S) * SAMPLE_RATE and stated_s > 0:
            found["mistaken"].append(str(row.audio))
            return replace(row, audio=None, cut_ms=None)
        if len(samples_N) > LONGEST_S * SAMPLE_RATE:
            found["overlong"].append(str(row.audio))
        return replace(row, audio_key=content_key(samples_N.tobytes()))

    with ThreadPoolExecutor(workers) as pool:
        rows = tuple(progress(pool.map(one, manifest.rows)))
    return Heard(Manifest(manifest.corpus, rows), *(tuple(sorted(names)) for names in found.values()))
