"""Evidence sound: what is kept, where it lies in time, and that it goes when it must."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcaf_stream.events.journal.config import sound_of
from bcaf_stream.evidence import FILE_S, CallRecorder, ChannelFiles, clip, expire
from bcaf_stream.types import SAMPLE_RATE, AudioChunk, Call, Channel

CALL = Call("alice/7 \u202e", (Channel("left", "customer"), Channel("right", "agent")))
FAILED: list[Exception] = []


@pytest.fixture(autouse=True)
def no_failure():
    FAILED.clear()
    yield
    assert not FAILED


def at_once(job) -> None:
    job()


def recorder(root: Path, *roles: str) -> CallRecorder:
    return CallRecorder(root, CALL, roles or ("customer",), at_once, FAILED.append)  # type: ignore[arg-type]


def tone(rate: int, seconds: float, hertz: float = 400.0) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


def beeps(rate: int, seconds: int) -> np.ndarray:
    """Silence, and a tone in the first half of every third second."""
    samples = np.zeros(rate * seconds, np.int16)
    for second in range(0, seconds, 3):
        samples[second * rate : second * rate + rate // 2] = tone(rate, 0.5)
    return samples


def push(to: CallRecorder, samples: np.ndarray, rate: int, start: int = 0, size: int = 160, name: str = "left"):
    for at in range(0, len(samples), size):
        to.push(AudioChunk(name, start + at, rate, samples[at : at + size]))


def heard(root: Path, start_ms: int, end_ms: int, channel: str = "left") -> np.ndarray | None:
    found = clip(root, CALL.id, channel, start_ms, end_ms)
    if found is None:
        return None
    assert found[:4] == b"RIFF"
    samples = np.frombuffer(found[44:], "<i2")
    assert len(samples) == (end_ms - start_ms) * SAMPLE_RATE // 1000
    return samples


def loud_ms(samples: np.ndarray) -> tuple[int, int]:
    loud = np.flatnonzero(np.abs(samples) > 2500) * 1000 // SAMPLE_RATE
    return int(loud[0]), int(loud[-1])


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_clip_is_what_was_said_at_its_time(tmp_path: Path, rate: int):
    call = recorder(tmp_path)
    push(call, beeps(rate, 8), rate)
    call.close()
    first, last = loud_ms(heard(tmp_path, 2500, 4500))
    assert first == pytest.approx(500, abs=15)
    assert last == pytest.approx(1000, abs=15)
    assert np.abs(heard(tmp_path, 4000, 5500)).max() < 500


def test_it_lies_right_beyond_the_minute_in_which_a_file_ends(tmp_path: Path):
    call = recorder(tmp_path)
    push(call, beeps(8000, FILE_S + 10), 8000, size=800)
    call.close()
    assert len(list(sound_of(tmp_path, CALL.id).iterdir())) == 2
    first, last = loud_ms(heard(tmp_path, FILE_S * 1000 - 1000, FILE_S * 1000 + 2000))
    assert (first, last) == (pytest.approx(1000, abs=15), pytest.approx(1500, abs=15))


def test_only_the_chosen_roles_are_kept_and_names_tell_nothing(tmp_path: Path):
    call = recorder(tmp_path)
    push(call, tone(8000, 2), 8000)
    push(call, tone(8000, 2), 8000, name="right")
    call.close()
    assert heard(tmp_path, 0, 1000) is not None
    assert heard(tmp_path, 0, 1000, "right") is None
    assert clip(tmp_path, "another", "left", 0, 1000) is None
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "alice" not in str(file.relative_to(tmp_path))
    assert "left" not in file.name
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    assert file.stat().st_size < 10_000, "two seconds are 6 kB of Opus"


def test_what_never_came_is_silence_and_a_long_hole_begins_a_new_file(tmp_path: Path):
    call = recorder(tmp_path)
    push(call, tone(8000, 1), 8000)
    push(call, tone(8000, 1), 8000, start=8000 + 4000)  # half a second is missing
    push(call, tone(8000, 1), 8000, start=8000 * 3600)  # and now an hour
    call.close()
    samples = heard(tmp_path, 0, 2500)
    assert np.abs(samples[SAMPLE_RATE + 800 : SAMPLE_RATE * 3 // 2 - 800]).max() < 500
    assert loud_ms(samples[SAMPLE_RATE * 3 // 2 - 800 :])[0] == pytest.approx(50, abs=15)
    assert len(list(sound_of(tmp_path, CALL.id).iterdir())) == 2
    assert loud_ms(heard(tmp_path, 3_600_000, 3_601_000))[0] < 15
    assert heard(tmp_path, 100_000, 101_000) is None


def test_it_can_be_heard_while_it_is_written_and_after_its_writer_was_killed(tmp_path: Path):
    files = ChannelFiles(tmp_path / "it", "left")
    (tmp_path / "it").mkdir()
    for second in range(5):
        files.push(AudioChunk("left", second * 8000, 8000, tone(8000, 1)))
    [written] = (tmp_path / "it").iterdir()
    folder = sound_of(tmp_path, CALL.id)
    folder.mkdir()
    (folder / written.name).write_bytes(written.read_bytes())  # as it lies on the disk, without an end
    samples = heard(tmp_path, 0, 5000)
    first, last = loud_ms(samples)
    assert first < 15
    assert last > 3500, "at most a page and a second of it is not there yet"
    files.close()


def test_a_call_that_goes_on_after_its_process_died_is_heard_as_one(tmp_path: Path):
    first = recorder(tmp_path)
    push(first, tone(8000, 3), 8000)
    second = recorder(tmp_path)  # sent again from the second second on
    push(second, tone(8000, 3), 8000, start=2 * 8000)
    second.close()
    samples = heard(tmp_path, 0, 5000)
    assert loud_ms(samples)[1] > 4980
    first.close()  # of the test alone
    assert (np.abs(samples[2 * SAMPLE_RATE : 5 * SAMPLE_RATE]) > 2500).mean() > 0.5


def test_nothing_is_written_of_a_call_that_was_erased_while_it_runs(tmp_path: Path):
    call = recorder(tmp_path)
    push(call, tone(8000, 2), 8000, size=8000)
    folder = sound_of(tmp_path, CALL.id)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    push(call, tone(8000, FILE_S + 5), 8000, start=16_000, size=8000)
    call.close()
    assert list(tmp_path.rglob("*")) == []


def test_a_folder_that_cannot_be_written_costs_the_recording_and_nothing_else(tmp_path: Path):
    call = recorder(tmp_path)
    folder = sound_of(tmp_path, CALL.id)
    for n in range(3):  # a folder stands where each of the files would be
        (folder / f"{ChannelFiles(folder, 'left')._prefix}.{n * 60_000:012d}.ogg").mkdir()
    push(call, tone(8000, FILE_S + 5), 8000, size=8000)
    call.close()
    assert len(FAILED) == 1, "it is told once"
    FAILED.clear()


def test_what_is_old_goes_and_what_is_not_stays(tmp_path: Path):
    call = recorder(tmp_path)
    push(call, tone(8000, FILE_S + 5), 8000, size=8000)
    call.close()
    folder = sound_of(tmp_path, CALL.id)
    old, new = sorted(folder.iterdir())
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    assert expire(tmp_path, time.time() - 3600) == 1
    assert list(folder.iterdir()) == [new]
    assert expire(tmp_path, time.time() + 10) == 1
    expire(tmp_path, time.time() + 10)
    assert list(tmp_path.iterdir()) == []
    assert expire(tmp_path / "nowhere", time.time()) == 0


def test_what_is_no_sound_is_not_played(tmp_path: Path):
    folder = sound_of(tmp_path, CALL.id)
    folder.mkdir(parents=True)
    (folder / f"{ChannelFiles(folder, 'left')._prefix}.{0:012d}.ogg").write_bytes(b"OggS" + bytes(300))
    assert clip(tmp_path, CALL.id, "left", 0, 1000) is None
    for span in ((0, 0), (5, 4), (-1, 5), (0, 10**9)):
        with pytest.raises(ValueError, match="no time that a clip can have"):
            clip(tmp_path, CALL.id, "left", *span)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12), st.sampled_from([8000, 16_000, 22_050]))
def test_it_does_not_matter_how_the_sound_was_cut(tmp_path_factory: pytest.TempPathFactory, sizes, rate):
    whole, cut = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    samples = beeps(rate, 8)[: max(rate, sum(sizes))]
    call = recorder(whole)
    push(call, samples, rate, size=len(samples))
    call.close()
    call, at = recorder(cut), 0
    for size in [*sizes, len(samples)]:
        if at < len(samples):
            call.push(AudioChunk("left", at, rate, samples[at : at + size]))
            at += size
    call.close()
    end_ms = len(samples) * 1000 // rate
    assert np.array_equal(heard(whole, 0, end_ms), heard(cut, 0, end_ms))
