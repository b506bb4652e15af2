"""Servers that listen beyond this machine must say who may come."""

import pytest

from bcaf_stream.config import Config, load_config
from bcaf_stream.errors import ConfigError
from bcaf_stream.ingest.protocols.audiohook import AudioHookConfig
from bcaf_stream.ingest.protocols.browser import BrowserConfig
from bcaf_stream.ingest.protocols.live_text import LiveTextConfig
from bcaf_stream.ingest.protocols.raw_pcm import PcmConfig
from bcaf_stream.ingest.protocols.twilio import TwilioConfig

OPEN = "host: 0.0.0.0\nport: 8443\n"
TLS = "certificate: cert.pem\nkey: key.pem\n"


def load(cls: type[Config], tmp_path, text: str) -> Config:
    path = tmp_path / "server.yaml"
    path.write_text(text)
    return load_config(cls, path)


@pytest.mark.parametrize("cls", [TwilioConfig, AudioHookConfig, LiveTextConfig])
def test_nobody_comes_in_unasked(cls, tmp_path):
    with pytest.raises(ConfigError, match="say who may come"):
        load(cls, tmp_path, OPEN)
    for said in ("tokens: keys.txt\nbehind_proxy: true", "allow: [10.1.0.0/16]", "insecure: true"):
        assert load(cls, tmp_path, OPEN + said).port == 8443
    assert load(cls, tmp_path, "port: 8443").host == "127.0.0.1"


def test_a_platforms_own_secret_is_enough(tmp_path):
    load(TwilioConfig, tmp_path, OPEN + TLS + "auth_token: token.txt")
    load(AudioHookConfig, tmp_path, OPEN + TLS + "client_secret: secret.txt")


@pytest.mark.parametrize(
    ("cls", "secret"),
    [
        (TwilioConfig, "tokens"),
        (TwilioConfig, "auth_token"),
        (AudioHookConfig, "tokens"),
        (AudioHookConfig, "client_secret"),
        (PcmConfig, "tokens"),
        (LiveTextConfig, "tokens"),
        (BrowserConfig, "tokens"),
    ],
)
def test_secrets_do_not_travel_unencrypted(cls, secret, tmp_path):
    for beside in ("", "allow: [10.1.0.0/16]\n", "insecure: true\n"):
        with pytest.raises(ConfigError, match=r"certificate: FILE and key: FILE, or behind_proxy: true") as caught:
            load(cls, tmp_path, f"{OPEN}{beside}{secret}: secrets.txt")
        assert "\n" not in str(caught.value)
    for said in (TLS, "behind_proxy: true\n"):
        assert load(cls, tmp_path, f"{OPEN}{said}{secret}: secrets.txt").port == 8443
    assert load(cls, tmp_path, f"port: 8443\n{secret}: secrets.txt").local


def test_a_whole_configuration(tmp_path):
    text = """
port: 8443
host: 0.0.0.0
auth_token: /etc/bcaf/twilio_token
public_url: wss://calls.example.org/twilio
certificate: /etc/bcaf/cert.pem
key: /etc/bcaf/key.pem
text: given
call_id: stream
reorder_ms: 300
channels:
  inbound: {name: caller, role: customer}
  outbound: {name: ann, role: agent}
max_connections: 10
"""
    config = load(TwilioConfig, tmp_path, text)
    assert isinstance(config, TwilioConfig)
    assert config.channels["outbound"].name == "ann"
    assert config.text == "given"


def test_an_unknown_track_is_named(tmp_path):
    with pytest.raises(ConfigError, match="middle"):
        load(TwilioConfig, tmp_path, "port: 1\nchannels: {middle: {name: a, role: agent}}")
