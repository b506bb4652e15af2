"""Signatures against the worked examples of both platforms' documentation."""

import base64

import pytest

from bcaf_stream.ingest.protocols.audiohook_signature import MAX_AGE_S, is_signed
from bcaf_stream.ingest.protocols.twilio import is_signed as is_signed_by_twilio
from bcaf_stream.ingest.protocols.twilio import twilio_signature
from bcaf_stream.ingest.security import UsedSignatures

# developer.genesys.cloud/devapps/audiohook/session-walkthrough, Establishing connection
NOW = 1_641_013_205.0
KEY = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"
SECRET = base64.b64decode("TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=")
TARGET = "/api/v1/voicebiometrics/ws"
COMPONENTS = (
    '"@request-target" "@authority" "audiohook-organization-id" "audiohook-session-id"'
    ' "audiohook-correlation-id" "x-api-key"'
)
PARAMETERS = (
    f';keyid="{KEY}";nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";created=1641013200;expires=3282026430'
)
HEADERS = {
    "host": "audiohook.example.com",
    "audiohook-organization-id": "d7934305-0972-4844-938e-9060eef73d05",
    "audiohook-session-id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
    "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
    "x-api-key": KEY,
    "signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
    "signature-input": f"sig1=({COMPONENTS}){PARAMETERS}",
}


def test_the_example_of_genesys():
    assert is_signed(HEADERS.get, TARGET, [b"another", SECRET], NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"host": "other.example.com"},
        {"host": None},
        {"audiohook-session-id": "another"},
        {"x-api-key": "another"},
        {"signature": "sig1=:AAAA:"},
        {"signature": "sig1=:A:"},
        {"signature": "sig2=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:"},
        {"signature": None},
        {"signature-input": None},
        {"signature-input": "sig1=()"},
        {"signature-input": f'sig1=("@authority"){PARAMETERS}'},
        {"signature-input": f'sig1=({COMPONENTS} "@status"){PARAMETERS}'},
        {"signature-input": HEADERS["signature-input"].replace("sha256", "sha512")},
        {"signature-input": HEADERS["signature-input"].replace("created=1641013200;", "")},
    ],
)
def test_any_change_is_noticed(change):
    assert not is_signed((HEADERS | change).get, TARGET, [SECRET], NOW)


def test_another_place_secret_or_time():
    assert not is_signed(HEADERS.get, TARGET + "/x", [SECRET], NOW)
    assert not is_signed(HEADERS.get, TARGET, [b""], NOW)
    assert not is_signed(HEADERS.get, TARGET, [], NOW)
    assert not is_signed(HEADERS.get, TARGET, [SECRET], NOW + 120)
    assert not is_signed(HEADERS.get, TARGET, [SECRET], NOW - 60)


def test_the_example_of_twilio():
    # twilio.com/docs/usage/security, whose form fields are appended to the address
    fields = "CallSidCA1234567890ABCDECaller+14158675309Digits1234From+14158675309To+18005551212"
    url = "https://mycompany.com/myapp.php?foo=1&bar=2" + fields
    signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert twilio_signature(b"12345", url).decode() == signature
    assert is_signed_by_twilio(signature, ["wss://other", url], [b"1234", b"12345"])
    assert not is_signed_by_twilio(signature, [url + "/"], [b"12345"])
    assert not is_signed_by_twilio("é", [url], [b"12345"])
    assert not is_signed_by_twilio("", [url], [])


def test_a_signature_is_taken_once():
    used = UsedSignatures()
    assert is_signed(HEADERS.get, TARGET, [SECRET], NOW, used)
    renamed = HEADERS | {
        name: HEADERS[name].replace("sig1=", "other=", 1) for name in ("signature", "signature-input")
    }
    for headers in (HEADERS, renamed):
        for later in (0, 30, MAX_AGE_S):
            assert not is_signed(headers.get, TARGET, [SECRET], NOW + later, used)
    assert not is_signed((HEADERS | {"host": "other"}).get, TARGET, [SECRET], NOW, UsedSignatures())


def test_what_is_not_valid_is_not_remembered():
    used = UsedSignatures()
    assert not is_signed((HEADERS | {"host": "other"}).get, TARGET, [SECRET], NOW, used)
    assert is_signed(HEADERS.get, TARGET, [SECRET], NOW, used)


def test_used_signatures_are_forgotten_when_they_are_old_and_bounded():
    used = UsedSignatures(most=3)
    assert used.take(b"a", 10.0, 0.0)
    assert not used.take(b"a", 10.0, 9.9)
    assert used.take(b"a", 20.0, 10.0)
    for name in (b"b", b"c", b"d"):
        assert used.take(name, 30.0, 10.0)
    assert not used.take(b"d", 30.0, 10.0)
    assert len(used) == 3
    assert used.take(b"e", 40.0, 30.0)
    assert len(used) == 1
