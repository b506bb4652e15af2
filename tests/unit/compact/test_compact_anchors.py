"""Turns of conversation that stand for calm talk in the training."""

import numpy as np
import pytest

from bcaf_stream.errors import DataError
from training.compact import clips
from training.compact.clips import read_anchors


def test_turns_of_usable_length_become_neutral_clips(tmp_path, monkeypatch):
    sound = np.arange(16_000 * 5, dtype=np.int64).astype(np.int16)
    monkeypatch.setattr(clips, "decode", lambda path: (sound, ""))
    (tmp_path / "ami_trn00.flac").touch()
    lines = [
        f"SPEAKER TRN00 1 {start} {length} <NA> <NA> A <NA> <NA>\n"
        for start, length in ((1.0, 2.0), (3.0, 0.2), (4.9, 1.0))
    ]
    (tmp_path / "a.rttm").write_text("".join(lines))
    (only,) = read_anchors(tmp_path)  # one is too short, one reaches over the end
    assert (only.label, only.split, only.speaker) == ("neutral", "train", "anchor-TRN00")
    np.testing.assert_array_equal(only.samples, sound[16_000:48_000])


def test_a_folder_without_turns_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no turns of conversation"):
        read_anchors(tmp_path)
    (tmp_path / "a.rttm").write_text("SPEAKER x 1 1.0 2.0 <NA> <NA> A <NA> <NA>\n")
    with pytest.raises(DataError, match="no recording x"):
        read_anchors(tmp_path)
