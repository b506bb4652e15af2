"""The token of a local Ray, and what is said where a cluster refuses."""

import os
import stat
import time
from pathlib import Path

import pytest
from ray.exceptions import RayActorError, RayTaskError

from actors.cluster import Cluster, _close_token, _reason, plain
from bcaf_stream.errors import CheckpointError, DeploymentError
from tests.deployed import free_address


def token_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(variable, "")  # so that it is put back whatever is set meanwhile
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(home))
    return home / ".ray" / "auth_token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = token_of(tmp_path, monkeypatch)
    _close_token()
    first = path.read_text(encoding="utf-8")
    assert (mode(path), len(first)) == (0o600, 64)
    _close_token()
    assert path.read_text(encoding="utf-8") == first


def test_a_token_that_others_could_read_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = token_of(tmp_path, monkeypatch)
    path.parent.mkdir()
    path.write_text("secret", encoding="utf-8")
    path.chmod(0o644)
    _close_token()
    assert mode(path) == 0o600


def test_without_a_home_the_token_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = token_of(tmp_path / "file", monkeypatch)
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    _close_token()
    assert not path.exists()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_refused_token_is_said():
    error = ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6391")
    error.__cause__ = RuntimeError("Failed to connect to GCS. Last:\nTraceback\nRPC error: InvalidAuthToken: x")
    assert _reason(error).startswith("it asks for a token, and there is none here or another")
    assert _reason(ConnectionError("\n no route \n")) == "no route"


def test_what_a_task_raised_is_told_without_the_traceback_around_it():
    raised = CheckpointError("no such checkpoint folder")
    around = RayTaskError(
        "load", "Traceback (most recent call last):\n  ...", raised, proctitle="p", pid=1, ip="ip"
    )
    assert plain(around, "it does not start") is raised
    assert plain(around.as_instanceof_cause(), "it does not start") is raised  # is of both classes
    outer = RuntimeError("a pool failed")
    outer.__cause__ = around
    assert plain(outer, "it does not start") is raised


def test_what_ray_itself_says_is_its_last_line():
    error = plain(RayActorError(error_msg="The actor died.\n\nits node was lost\n"), "the hub does not start")
    assert isinstance(error, DeploymentError)
    assert str(error) == "the hub does not start: its node was lost"


def test_an_address_where_no_cluster_is_is_said_at_once():
    address = free_address().removeprefix("tcp://")
    begun = time.monotonic()
    with pytest.raises(
        DeploymentError, match=rf"the Ray cluster at {address} cannot be reached: Connection refused"
    ):
        Cluster(address)
    assert time.monotonic() - begun < 20, "Ray itself goes on for minutes"
