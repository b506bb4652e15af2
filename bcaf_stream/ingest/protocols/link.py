"""Our own audio link, protocol v1, without its sockets: bytes -> message, message -> bytes.

One message is one msgpack map; `t` says which.

    client -> server  open      {v, call, rate, channels: [[name, role], ...], text, sender: str = none,
                                 resume: int = none, source: str = none}
                      audio     {seq, start, pcm}    int16 little endian, interleaved by channel
                      words     {items: [[channel | None, start_ms, end_ms, text, id = None, final = True], ...],
                                 last: bool = False, call: str = the open one}
                      close     {}
    server -> client  accepted  {call, window_ms, from: int = none}
                      credit    {upto_ms, settled_ms = 0}  audio may be sent up to this stream time
                      closed    {utterances, reason}
                      refused   {message}            and the call, if one was open, is over

The first credit is `window_ms`. A sender that keeps its sound and comes back after a loss names its run, by the
same random `sender` in each of its opens. After a loss it opens its call again with `resume`, the earliest sample
of the call that it can send once more. It is answered by the sample that it shall go on `from`, or by `closed`
where the call has ended meanwhile; `start` and `upto_ms` are then the call's, `seq` begins at 0, and given words
are sent again. Sound before `settled_ms` will never be asked for again.

A sender that can send all of its call at any time, as that of a file, names the sound: by a `source` that is the
same whenever the same sound is sent. If it dies, another run with the same `source` goes on with the call, and is
answered by `from` at its first open already; one with another `source` is refused.

Words with `call` may come from a client that has no call open: live text beside a
call that another one sends. Unknown fields are ignored. Errors never quote audio or words.
"""

from dataclasses import dataclass
from typing import Any

import msgpack

from bcaf_stream.codecs import decode_linear
from bcaf_stream.errors import LinkError
from bcaf_stream.ingest.fields import Fields, is_name, is_whole, text_in
from bcaf_stream.ingest.media import MAX_NAME, MissingSound, TextUpdate
from bcaf_stream.types import Channel, PcmN, TextSource, Words

VERSION = 1
LATEST = 1 << 40  # sample of a call
MOST_MISSING = 100  # in one message
LIMITS = {"max_array_len": 10_000, "max_map_len": 100, "max_ext_len": 0}


@dataclass(frozen=True, slots=True)
class Open:
    """Begins a call, or goes on with one; `text` says where its words come from.

    `sender` names the run of a sender that comes back after a loss. `resume` is the earliest sample of the call
    that it can send again; None in the first open of a run. `source` names sound that can be sent from the call's
    first sample on at any time.
    """

    call: str
    channels: tuple[Channel, ...]
    rate: int
    text: TextSource
    sender: str | None = None
    resume: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """`samples_NC`: int16, N samples of C channels from sample `start` on; `received_at` is the server's clock.

    `missing` are the stretches that begin in these samples and that the sender has no sound for, only silence.
    """

    seq: int
    start: int
    samples_NC: PcmN
    received_at: int = 0
    missing: tuple[MissingSound, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """No more audio or words come."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`start` is the sample of the call to go on from (`from` on the wire), for a sender that resumes."""

    call: str
    window_ms: int
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Credit:
    """Audio may be sent up to `upto_ms`; what lies before `settled_ms` will never be asked for again."""

    upto_ms: int
    settled_ms: int = 0


@dataclass(frozen=True, slots=True)
class Closed:
    """The call is over and all of it was analysed."""

    utterances: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    message: str


ClientMessage = Open | Audio | TextUpdate | Close
ServerMessage = Accepted | Credit | Closed | Refused


def pack(message: ClientMessage | ServerMessage) -> bytes:
    """The message as bytes.

    Raises:
        LinkError: a name or a text cannot be written in UTF-8.
    """
    try:
        return bytes(msgpack.packb(_plain(message)))
    except UnicodeEncodeError:
        raise LinkError("message: a name or a text is not valid Unicode") from None


def _plain(message: ClientMessage | ServerMessage) -> dict[str, Any]:
    match message:
        case Open(call, channels, rate, text, sender, resume, source):
            names = [[channel.name, channel.role] for channel in channels]
            about = _given(sender=sender, resume=resume, source=source)
            return {"t": "open", "v": VERSION, "call": call, "rate": rate, "channels": names, "text": text} | about
        case Audio(seq, start, samples_NC, _, missing):
            about = {"missing": [[m.channel, m.start, m.end, m.reason] for m in missing]} if missing else {}
            return {"t": "audio", "seq": seq, "start": start, "pcm": samples_NC.astype("<i2").tobytes()} | about
        case TextUpdate(words, last, call):
            items = [_item(w) for w in words]
            return {"t": "words", "items": items} | _given(last=last or None, call=call)
        case Close():
            return {"t": "close"}
        case Accepted(call, window_ms, start):
            return {"t": "accepted", "call": call, "window_ms": window_ms} | _given(**{"from": start})
        case Credit(upto_ms, settled_ms):
            return {"t": "credit", "upto_ms": upto_ms} | _given(settled_ms=settled_ms or None)
        case Closed(utterances, reason):
            return {"t": "closed", "utterances": utterances, "reason": reason}
        case Refused(text):
            return {"t": "refused", "message": text}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _item(words: Words) -> list[Any]:
    plain = words.id is None and words.final
    return [words.channel, words.start_ms, words.end_ms, words.text] + ([] if plain else [words.id, words.final])


def parse_client(data: bytes, channels: int | None = None) -> ClientMessage:
    """What a client sent; `channels` is how many its open call has, None before it opened one.

    Raises:
        LinkError: not a message of a client, or audio without an open call.
    """
    fields = _unpack(data)
    match fields.get("t"):
        case "open":
            return _open(fields)
        case "audio":
            return _audio(fields, channels)
        case "words":
            words = tuple(_words(item) for item in fields.needed("items", list))
            last = fields.needed("last", bool) if "last" in fields else False
            return TextUpdate(words, last, fields.name("call"))
        case "close":
            return Close()
    raise LinkError("message: t must be one of open, audio, words, close")


def parse_server(data: bytes) -> ServerMessage:
    """What a server sent.

    Raises:
        LinkError: not a message of a server.
    """
    fields = _unpack(data)
    match fields.get("t"):
        case "accepted":
            return Accepted(fields.needed("call", str), fields.needed_whole("window_ms"), fields.whole("from"))
        case "credit":
            return Credit(fields.needed_whole("upto_ms"), fields.whole("settled_ms") or 0)
        case "closed":
            return Closed(fields.needed_whole("utterances"), fields.needed("reason", str))
        case "refused":
            return Refused(fields.needed("message", str))
    raise LinkError("message: t must be one of accepted, credit, closed, refused")


def _unpack(data: bytes) -> Fields:
    try:
        fields = msgpack.unpackb(data, **LIMITS)
    # msgpack documents no closed set of errors ("other exceptions can be raised during unpacking")
    except Exception as error:
        raise LinkError(f"message: not a msgpack map ({type(error).__name__})") from None
    return Fields("message", fields)


def _open(fields: Fields) -> Open:
    version = fields.needed_whole("v")
    if version != VERSION:
        raise LinkError(f"open: this server speaks version {VERSION} and not {version}: update the older side")
    rate, channels, text = fields.rate(), fields.channels(), fields.one_of("text", TextSource)
    sender, resume, source = fields.name("sender"), fields.whole("resume"), fields.name("source")
    if sender is None and (resume is not None or source is not None):
        raise LinkError("open: resume and source need the name of the sender's run")
    return Open(fields.needed_name("call"), channels, rate, text, sender, resume, source)


def _audio(fields: Fields, channels: int | None) -> Audio:
    if channels is None:
        raise LinkError("no call is open here: the server may have restarted; send the call again")
    pcm = fields.needed("pcm", bytes)
    if not pcm or len(pcm) % (2 * channels):
        raise LinkError(f"audio: pcm must be whole samples of 2 bytes for each of {channels} channels")
    samples_NC = decode_linear(pcm).reshape(-1, channels)
    missing = tuple(map(_missing, fields.needed("missing", list) if "missing" in fields else ()))
    start = fields.needed_whole("start")
    if len(missing) > MOST_MISSING:
        raise LinkError(f"audio: a message has at most {MOST_MISSING} stretches that are missing")
    if not all(start <= one.start < start + len(samples_NC) for one in missing):
        raise LinkError("audio: what is missing must begin in the samples of its message")
    return Audio(fields.needed_whole("seq"), start, samples_NC, missing=missing)


def _missing(item: Any) -> MissingSound:
    if not isinstance(item, list) or len(item) != 4:
        raise LinkError("audio: what is missing must be [channel, start, end, reason]")
    channel, start, end, reason = item
    if not (is_name(channel) and is_name(reason) and is_whole(start) and is_whole(end) and start < end < LATEST):
        raise LinkError("audio: what is missing must have a channel, a first and a last sample, and a reason")
    return MissingSound(channel, start, end, reason)


def _words(item: Any) -> Words:
    if not isinstance(item, list) or not 4 <= len(item) <= 6:
        raise LinkError("words: an item must be [channel, start_ms, end_ms, text, id, final]")
    channel, start_ms, end_ms, text, id, final = item + [None, True][len(item) - 4 :]
    if not (is_whole(start_ms) and is_whole(end_ms) and start_ms <= end_ms):
        raise LinkError("words: start_ms and end_ms must be whole and in order")
    if not isinstance(final, bool):
        raise LinkError("words: final must be true or false")
    if not all(name is None or is_name(name) for name in (channel, id)):
        raise LinkError(f"words: the name of a channel or a text must have 1 to {MAX_NAME} characters")
    return Words(start_ms, end_ms, text_in("words", "text", text), channel, id, final)
