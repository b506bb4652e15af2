"""HTTP message signatures (RFC 9421) as Genesys AudioHook uses them.

Specification: "AudioHook session walkthrough, Establishing connection"
(developer.genesys.cloud/devapps/audiohook/session-walkthrough). A signature is compared with those of all known
secrets in constant time, so that the time says nothing about which one was nearly right. It holds the time and a
nonce, so that each is taken once.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence

from bcaf_stream.ingest.security import UsedSignatures

COVERED = {  # what a client of AudioHook must sign
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
}
MAX_AGE_S, MAX_SKEW_S = 60, 10  # how old a signature may be, and how far clocks may be apart

_INPUT = re.compile(
    r'([a-z*][\w.*-]*)=(\(("[^"\\]*"(?: "[^"\\]*")*)\)((?:;[a-z*][\w.*-]*=(?:"[^"\\]*"|[0-9]{1,15}))*))'
)
_PARAMETER = re.compile(r';([a-z*][\w.*-]*)=(?:"([^"\\]*)"|([0-9]+))')
_SIGNATURE = re.compile(r"([a-z*][\w.*-]*)=:([A-Za-z0-9+/=]*):")


def is_signed(
    header: Callable[[str], str | None],
    target: str,
    secrets: Sequence[bytes],
    now: float,
    used: UsedSignatures | None = None,
) -> bool:
    """Whether a request carries a fresh signature of what AudioHook signs, for the first time.

    Args:
        header: the value of a header by its name, None where it is not given exactly once.
        target: path and query of the request.
        secrets: the known client secrets.
        now: unix time in seconds.
        used: the signatures that were taken before; None takes one any number of times.
    """
    described = _INPUT.fullmatch((header("signature-input") or "").strip())
    signed = _SIGNATURE.fullmatch((header("signature") or "").strip())
    if described is None or signed is None or described[1] != signed[1]:
        return False
    parameters = {name: text or number for name, text, number in _PARAMETER.findall(described[4])}
    components = re.findall(r'"([^"]*)"', described[3])
    if not set(components) >= COVERED or not _is_fresh(parameters, now):
        return False
    if parameters.get("keyid") != header("x-api-key") or parameters.get("alg", "hmac-sha256") != "hmac-sha256":
        return False
    lines = [_line(name, header, target) for name in components]
    if None in lines:
        return False
    base = "\n".join([*(line for line in lines if line), f'"@signature-params": {described[2]}'])
    signed_bytes = base.encode("utf-8", "surrogateescape")
    given = _decoded(signed[2])
    known = [hmac.digest(secret, signed_bytes, hashlib.sha256) for secret in secrets]
    if sum(hmac.compare_digest(given, signature) for signature in known) == 0:
        return False
    return used is None or used.take(given, int(parameters["created"]) + MAX_AGE_S + 1, now)


def _line(name: str, header: Callable[[str], str | None], target: str) -> str | None:
    if name == "@request-target":
        return f'"{name}": {target}'
    if name == "@authority":
        host = header("host")
        return None if host is None else f'"{name}": {host.strip().lower().removesuffix(":443")}'
    value = None if name.startswith("@") or name == "signature" else header(name)
    return None if value is None else f'"{name}": {value.strip()}'


def _is_fresh(parameters: dict[str, str], now: float) -> bool:
    created, expires = parameters.get("created", ""), parameters.get("expires", "")
    if not created.isdecimal() or not (now - MAX_AGE_S <= int(created) <= now + MAX_SKEW_S):
        return False
    return not expires or (expires.isdecimal() and int(expires) > now - MAX_SKEW_S)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
