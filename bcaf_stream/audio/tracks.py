"""Several audio tracks in one file: whose is which, where that is certain.

Recorders of meetings and screens write one track for each party, often with a mix of all beside them, or the same
sound twice. What the tracks hold is heard in their beginning; where it leaves a doubt, the user is asked.
"""

import re
from collections.abc import Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.containers import Track, is_url, shown
from bcaf_stream.audio.decoder import Decoder
from bcaf_stream.errors import UsageError
from bcaf_stream.types import Role

Location = str | Path  # of a file, or a URL
Arranged = Location | dict[str, Location]

LISTEN_S = 60  # of each track
SAME = 0.98  # cosine of two tracks' samples: encoders lose no more
SHARED = 0.3  # a mix of two voices has 0.7 with each of them, two voices of a call have none


def split_track(place: Location) -> tuple[Location, int | None]:
    """The file and the number behind its last #, None where there is none."""
    match = re.fullmatch(r"(.+)#(\d{1,3})", str(place), re.DOTALL)
    if match is None or (not is_url(place) and Path(place).exists()):
        return place, None
    return match[1], int(match[2])


def arrange(
    place: Location, channel: str, tracks: Sequence[Track], timeout_s: float
) -> tuple[Arranged, list[str]]:
    """What a file with several tracks is to be read as, and notes on it.

    Tracks that hold the same sound are one. Different ones are a channel each, if each holds one sound and none
    shares it with another: that would be a mix. Whose they are is not guessed: they are `ch1`, `ch2`, ... unless
    their titles are roles. For a single `channel`, only one may be left.

    Raises:
        UsageError: anything else.
        SourceError: it cannot be read.
    """
    heard = [_hear(place, track, timeout_s) for track in tracks]
    kept: list[int] = []
    notes: list[str] = []
    for index, track in enumerate(tracks):
        twin = next((other for other in kept if _alike(heard[other], heard[index]) >= SAME), None)
        if twin is None:
            kept.append(index)
        else:
            notes.append(
                f"{shown(place)}: audio track {track} holds the same sound as #{tracks[twin].number}: left out"
            )
    if len(kept) == 1:
        return f"{place}#{tracks[kept[0]].number}", notes
    pairs = combinations(kept, 2)
    if (
        not channel
        and all(_one_sound(heard[index]) for index in kept)
        and all(_alike(heard[one], heard[other]) < SHARED for one, other in pairs)
    ):
        names = _names([tracks[index] for index in kept])
        numbers = [tracks[index].number for index in kept]
        listed = ", ".join(f"#{number} is channel {name}" for name, number in zip(names, numbers, strict=True))
        notes.append(
            f"{shown(place)}: each audio track is a channel: {listed}; {_way_out(place, channel, tracks)}"
        )
        return {name: f"{place}#{number}" for name, number in zip(names, numbers, strict=True)}, notes
    listed = ", ".join(map(str, tracks))
    raise UsageError(
        f"{shown(place)}: has {len(tracks)} audio tracks, {listed}, and it is not certain whose they are;"
        f" name one with --track N, or {_way_out(place, channel, tracks)}"
    )


def _names(tracks: Sequence[Track]) -> list[str]:
    titles = [track.title.strip().lower() for track in tracks]
    if set(titles) <= set(get_args(Role)) and len(set(titles)) == len(titles):
        return titles
    return [f"ch{number}" for number in range(1, len(tracks) + 1)]


def _way_out(place: Location, channel: str, tracks: Sequence[Track]) -> str:
    file = shown(place)
    if channel:
        return f"say which one with --channel {channel}={file}#{tracks[0].number}"
    first, last = tracks[0].number, tracks[-1].number
    return f"say who is who with --channel customer={file}#{first} --channel agent={file}#{last}"


def _hear(place: Location, track: Track, timeout_s: float) -> NDArray[np.float32]:
    """The beginning of a track: (channels, samples)."""
    with closing(Decoder(place, timeout_s, track=track.number)) as decoder:
        return decoder.read(LISTEN_S * decoder.info.rate).astype(np.float32)


def _alike(one_CN: NDArray[np.float32], other_CN: NDArray[np.float32]) -> float:
    """Cosine of two tracks, each mixed into one channel; 0 where one is silent, or has another rate."""
    count = min(one_CN.shape[1], other_CN.shape[1])
    return _cosine(one_CN[:, :count].mean(axis=0), other_CN[:, :count].mean(axis=0))


def _one_sound(sound_CN: NDArray[np.float32]) -> bool:
    """Whether all channels of a track hold the same."""
    return all(_cosine(sound_CN[0], row_N) >= SAME for row_N in sound_CN[1:])


def _cosine(one_N: NDArray[np.float32], other_N: NDArray[np.float32]) -> float:
    scale = float(np.linalg.norm(one_N)) * float(np.linalg.norm(other_N))
    return float(one_N @ other_N) / scale if scale else 0.0
