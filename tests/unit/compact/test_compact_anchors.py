"""Turns of conversation that stand for calm talk in the training."""

import numpy as np
import pytest

from bcaf_stream.errors import DataError
from training.compact import clips
from training.compact.clips import read_anchors


def test_turns_become_neutral_clips_in_overlapping_parts(tmp_path, monkeypatch):
    sound = np.arange(16_000 * 12, dtype=np.int64).astype(np.int16)
    monkeypatch.setattr(clips, "decode", lambda path: (sound, ""))
    for name in ("ami_trn00", "ami_trn04"):
        (tmp_path / f"{name}.flac").touch()
    lines = [
        f"SPEAKER {name} 1 {start} {length} <NA> <NA> A <NA> <NA>\n"
        for name, start, length in (
            ("TRN00", 1.0, 2.0),
            ("TRN00", 3.0, 0.2),  # too short
            ("TRN00", 11.9, 1.0),  # reaches over the end, and too little is left
            ("trn04", 0.0, 7.0),
        )
    ]
    (tmp_path / "a.rttm").write_text("".join(lines))
    short, *long = read_anchors(tmp_path)
    assert (short.corpus, short.label, short.split, short.speaker) == (
        "anchor",
        "neutral",
        "train",
        "anchor-TRN00",
    )
    np.testing.assert_array_equal(short.samples, sound[16_000:48_000])
    assert {(one.split, one.words) for one in long} == {("dev", "")}
    for one, (first, last) in zip(long, ((0, 4), (2, 6), (4, 7)), strict=True):
        np.testing.assert_array_equal(one.samples, sound[first * 16_000 : last * 16_000])


def test_a_folder_without_turns_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no turns of conversation"):
        read_anchors(tmp_path)
    (tmp_path / "a.rttm").write_text("SPEAKER x 1 1.0 2.0 <NA> <NA> A <NA> <NA>\n")
    with pytest.raises(DataError, match="no recording x"):
        read_anchors(tmp_path)
