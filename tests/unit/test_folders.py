"""Folders that a deployment depends on: what is wrong with one is said in one line, with the way out."""

import os
from pathlib import Path

import pytest

from bcaf_stream.cli.doctor import findings
from bcaf_stream.files import replacing
from bcaf_stream.folders import MOST_BYTES, ray_folder, why_home_is_no_use, why_ray_cannot_use


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_is_too_long_for_sockets(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, "/tmp/" + 79 * "x")
    problem = why_ray_cannot_use(*ray_folder())
    assert problem is not None
    assert problem.startswith(f"{variable} (/tmp/xxx")
    assert "84 bytes, too long" in problem
    assert "set RAY_TMPDIR to a folder of at most" in problem
    found = {one.what: one for one in findings() if one.what in ("Ray's folder", "home folder")}
    assert found["Ray's folder"].state == "problem"
    assert found["Ray's folder"].advice.startswith("set RAY_TMPDIR")


def test_length_is_in_bytes_and_the_longest_is_taken():
    assert why_ray_cannot_use("/" + "x" * (MOST_BYTES - 1), "TMPDIR") is None or os.getuid() != 0
    assert "too long" in (why_ray_cannot_use("/" + "x" * MOST_BYTES, "TMPDIR") or "")
    assert "too long" in (why_ray_cannot_use("/" + "ä" * (MOST_BYTES // 2 + 1), "TMPDIR") or "")


def test_a_folder_that_cannot_be_written():
    assert "cannot write there" in (why_ray_cannot_use("/proc/1", "RAY_TMPDIR") or "")


def test_a_home_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert why_home_is_no_use() is None
    monkeypatch.setenv("HOME", str(tmp_path / "nothing"))
    assert "no such folder" in (why_home_is_no_use() or "")


def test_what_is_written_takes_the_place_of_files_alone(tmp_path: Path):
    pipe, file, link = tmp_path / "pipe", tmp_path / "file", tmp_path / "link"
    os.mkfifo(pipe)
    file.write_text("before")
    link.symlink_to(file)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as draft:
        draft.write_text("through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    with replacing(link) as draft:
        draft.write_text("after")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]
