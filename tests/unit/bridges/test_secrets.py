"""Addresses with secrets: from a private file or the environment, and never in what is printed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bcaf_stream.bridges.forward import has_secret
from bcaf_stream.cli.main import app

SECRET = "hunter2"


def bridge(*words: str, tmp_path: Path, **env: str) -> Result:
    secret = tmp_path / "signs"
    secret.touch(mode=0o600)
    secret.write_text("whsec_" + "A" * 40)
    name = words[0]
    needed = ["--secret-file", str(secret)] if name == "webhook" else ["--stream", "s"]
    return CliRunner().invoke(app, ["bridge", *words, *needed, "--position", str(tmp_path / "p")], env=env)


@pytest.mark.parametrize("name", ["webhook", "redis"])
@pytest.mark.parametrize("address", [f"ftp://u:{SECRET}@h/{SECRET}?t={SECRET}", f"//[{SECRET}", SECRET])
def test_an_address_that_is_none_is_not_shown(name: str, address: str, tmp_path: Path):
    file = tmp_path / "url"
    file.touch(mode=0o600)
    file.write_text(address)
    for words, env in (
        ([name, address], {}),
        ([name, "--url-file", str(file)], {}),
        ([name], {f"BCAF_{name.upper()}_URL": address}),
    ):
        done = bridge(*words, tmp_path=tmp_path, **env)
        assert "not an address" in str(done.exception)
        assert SECRET not in str(done.exception) + done.output


@pytest.mark.parametrize("name", ["webhook", "redis"])
def test_the_way_out_is_named(name: str, tmp_path: Path):
    assert f"BCAF_{name.upper()}_URL" in str(bridge(name, tmp_path=tmp_path).exception)
    file = tmp_path / "url"
    file.write_text("x\n")
    file.chmod(0o644)
    assert "chmod 600" in str(bridge(name, "--url-file", str(file), tmp_path=tmp_path).exception)
    file.chmod(0o600)
    file.write_text("a\nb\n")
    assert "must hold one line" in str(bridge(name, "--url-file", str(file), tmp_path=tmp_path).exception)
    assert "give one" in str(bridge(name, "x", "--url-file", str(file), tmp_path=tmp_path).exception)


def test_what_carries_a_secret():
    assert [has_secret(url) for url in ("redis://:p@h", "https://h/?t=1", "redis://h:1", "//[")] == [1, 1, 0, 0]
