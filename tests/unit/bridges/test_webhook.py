from pathlib import Path

import pytest

from bcaf_stream.bridges.webhook import Webhook, WebhookConfig, read_secret, signed
from bcaf_stream.errors import EventError, UsageError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(SECRET + "\n")
    return path


def test_the_signature_is_the_one_of_the_specification_s_own_library(secret_file: Path):
    secret = read_secret(secret_file)
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}', secret)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_AAAA", "not base64!", "whsec_" + "A" * 100, "päss"])
def test_what_is_no_secret_is_refused_with_the_way_to_make_one(secret_file: Path, text: str):
    secret_file.write_text(text)
    with pytest.raises(EventError, match="openssl rand"):
        read_secret(secret_file)


def test_a_secret_that_others_may_read_or_that_is_absent(secret_file: Path, tmp_path: Path):
    secret_file.chmod(0o640)
    with pytest.raises(EventError, match="chmod 600"):
        read_secret(secret_file)
    with pytest.raises(EventError, match="openssl rand"):
        read_secret(tmp_path / "absent")


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://x/y", "https://", "http://[::1", "https:///path"])
def test_addresses_that_are_none(secret_file: Path, url: str):
    with pytest.raises(UsageError, match="give https://HOST/PATH"):
        Webhook(WebhookConfig(url=url, secret_file=secret_file))


def test_words_leave_this_machine_encrypted_or_not_at_all(secret_file: Path):
    for url, insecure in [
        ("https://example.org/x", False),
        ("http://127.0.0.1/x", False),
        ("http://e.org/x", True),
    ]:
        Webhook(WebhookConfig(url=url, secret_file=secret_file, insecure=insecure))
    with pytest.raises(UsageError, match=r"webhook e\.org: .* --insecure") as refused:
        Webhook(WebhookConfig(url="http://user:pass@e.org/token?key=1", secret_file=secret_file))
    assert "pass" not in str(refused.value)
    assert "token" not in str(refused.value)
