"""How the same recording is known again when it is sent once more."""

import os
import shutil
from pathlib import Path

import pytest

from bcaf_stream.client.recorded import identity
from bcaf_stream.demo import CALL
from bcaf_stream.recording import Recording


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(CALL, tmp_path / "a.wav"))


def of(file: Path | str, text: str = "asr", **roles: str) -> str:
    return identity(Recording.open(str(file), {}, roles, "c1"), 8000, text)  # type: ignore[arg-type]


def test_the_same_file_has_the_same_name_from_wherever_it_is_sent(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    assert of(file) == of(file) == of("a.wav") == of("./a.wav")
    assert "a.wav" not in of(file)


def test_another_file_another_way_to_read_it_or_a_changed_one_has_another_name(file: Path, tmp_path: Path):
    before = of(file)
    assert of(file, "none") != before
    assert of(file, customer="agent") != before
    assert of(shutil.copy(file, tmp_path / "b.wav")) != before
    os.utime(file, ns=(1, 1))
    assert of(file) != before
