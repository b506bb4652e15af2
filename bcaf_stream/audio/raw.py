"""Sound without a header: what its name says of it, or what the user says of it.

A name never gives 44.1 kHz, FFmpeg's own guess: telephone encodings have the rate of their standard, and
what only says "samples" is refused with the way out.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

import av
import numpy as np

from bcaf_stream.codecs import decode_alaw, decode_linear, decode_ulaw
from bcaf_stream.errors import SourceError, UsageError

_PCM = {"s8", "u8"} | {f"{kind}{bits}{end}" for kind in "su" for bits in (16, 24, 32) for end in ("le", "be")}
_PCM |= {"f32le", "f32be", "f64le", "f64be"}
_TELEPHONE = {"mulaw": 8000, "alaw": 8000, "gsm": 8000, "vox": 8000, "g722": 16_000}  # with the standard's rate
_ALIASES = {"ulaw": "mulaw", "pcmu": "mulaw", "pcma": "alaw", "sln": "s16le", "slin": "s16le"}
_ALIASES |= {name: f"{name}le" for name in ("s16", "s24", "s32", "f32", "f64")}
_BY_NAME = {"g722": "g722:16000:1", "gsm": "gsm:8000:1", "vox": "vox:8000:1"}
_BY_NAME |= dict.fromkeys(("ul", "ulaw", "mulaw", "mu", "pcmu", "g711u"), "mulaw:8000:1")
_BY_NAME |= dict.fromkeys(("al", "alaw", "pcma", "g711a"), "alaw:8000:1")
for _name in ("sln", "slin"):  # Asterisk's: the number is the rate in kHz
    _BY_NAME |= {_name: "s16le:8000:1", f"{_name}44": "s16le:44100:1"}
    _BY_NAME |= {f"{_name}{khz}": f"s16le:{khz * 1000}:1" for khz in (8, 12, 16, 24, 32, 48, 96, 192)}
_SAYS_TOO_LITTLE = re.compile(
    r"raw|pcm|lin|linear|[su](b|w|l|[1-4]|8|16|24|32)(le|be)?|f(4|8|32|64)(le|be)?|lpcm|bin|dat"
)
_DECODERS = {"mulaw": decode_ulaw, "alaw": decode_alaw, "s16le": decode_linear}
LOOKED_AT_S = 60  # of a file, for a second channel
HEARD = 300.0  # of 16 bits: louder than a quiet line
LEAST_BLOCKS = 25  # of 20 ms in which something is heard
APART_DB = 6.0  # of neighbours' power, as a median: 1 for one sound
DOUBLED = 0.9  # share of loud samples that come twice: of one sound at most a tenth
WAY_OUT = "say what it holds with --raw ENCODING:RATE:CHANNELS, as in --raw mulaw:8000:1 or --raw s16le:16000:2"


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How bytes without a header are to be read: interleaved by channel, at `rate` Hz."""

    encoding: str
    rate: int
    channels: int = 1

    @property
    def demuxer(self) -> tuple[str, dict[str, str]]:
        """FFmpeg's name for it, and the options."""
        if self.encoding in ("gsm", "g722"):
            return self.encoding, {}
        options = {"sample_rate": str(self.rate), "ch_layout": f"{self.channels}C"}
        return ("u8" if self.encoding == "vox" else self.encoding), options

    def codec(self) -> av.AudioCodecContext | None:
        """A decoder for the packets of `demuxer`, where its own is not the right one."""
        if self.encoding != "vox":
            return None
        context = av.CodecContext.create("adpcm_ima_oki", "r")
        assert isinstance(context, av.AudioCodecContext)
        context.sample_rate, context.layout = self.rate, "mono"
        return context


def parse_raw(text: str) -> RawFormat:
    """Understand ENCODING[:RATE[:CHANNELS]].

    Raises:
        UsageError: the encoding is unknown, its rate is not said, or a number is none.
    """
    encoding, _, numbers = text.lower().partition(":")
    encoding = _ALIASES.get(encoding, encoding)
    if encoding not in _PCM and encoding not in _TELEPHONE:
        known = ", ".join([*_TELEPHONE, "s16le", "s16be", "u8", "s8", "s24le", "s32le", "f32le"])
        raise UsageError(f"--raw {text}: the encoding must be one of {known}, as in --raw mulaw:8000:1")
    rate, _, channels = numbers.partition(":")
    if not rate and encoding in _PCM:
        raise UsageError(f"--raw {text}: has no rate; write it as in --raw {encoding}:16000:1")
    try:
        found = RawFormat(encoding, int(rate or _TELEPHONE[encoding]), int(channels or 1))
    except ValueError:
        raise UsageError(f"--raw {text}: must be ENCODING:RATE:CHANNELS, as in --raw mulaw:8000:1") from None
    if not (1000 <= found.rate <= 384_000 and 1 <= found.channels <= 64):
        raise UsageError(f"--raw {text}: the rate must be 1000 to 384000 Hz, with 1 to 64 channels")
    if encoding in ("gsm", "g722", "vox") and found.channels != 1:
        raise UsageError(f"--raw {text}: {encoding} has one channel")
    if encoding in ("gsm", "g722") and found.rate != _TELEPHONE[encoding]:
        raise UsageError(f"--raw {text}: {encoding} has {_TELEPHONE[encoding]} Hz")
    return found


def raw_by_name(name: str) -> RawFormat | None:
    """What the extension of a file without a magic says; None where it is no raw one.

    Raises:
        SourceError: the extension says that these are samples, but not which.
    """
    extension = PurePath(name).suffix[1:].lower()
    if extension in _BY_NAME:
        return parse_raw(_BY_NAME[extension])
    if _SAYS_TOO_LITTLE.fullmatch(extension):
        raise SourceError(f"{name}: has no header, and .{extension} does not tell encoding and rate; {WAY_OUT}")
    return None


def check_one_channel(path: Path, raw: RawFormat) -> None:
    """Refuse a file whose name says one channel where its bytes alternate between two.

    Every second sample of one sound has half of its power, within a decibel; of two people who take turns it has
    a hundred times the other's. The same sound twice has each sample twice.

    Raises:
        SourceError: it has two, and how to say so.
    """
    decode = _DECODERS.get(raw.encoding)
    if decode is None or raw.channels != 1:
        return
    with path.open("rb") as file:
        data = file.read(LOOKED_AT_S * raw.rate * (2 if raw.encoding == "s16le" else 1))
    levels_N = decode(data[: len(data) // 2 * 2] if raw.encoding == "s16le" else data).astype(np.float64)
    pairs_N2 = levels_N[: len(levels_N) // 2 * 2].reshape(-1, 2)
    block = raw.rate // 50
    blocks_FB2 = pairs_N2[: len(pairs_N2) // block * block].reshape(-1, block, 2)
    power_F2 = np.square(blocks_FB2).mean(axis=1) + 1.0
    heard_F2 = power_F2[power_F2.max(axis=1) > HEARD**2]
    loud_N2 = pairs_N2[np.abs(pairs_N2).max(axis=1) > HEARD]
    if len(heard_F2) < LEAST_BLOCKS:
        return
    apart_db = float(np.median(np.abs(10 * np.log10(heard_F2[:, 0] / heard_F2[:, 1]))))
    doubled = float((loud_N2[:, 0] == loud_N2[:, 1]).mean())
    if apart_db >= APART_DB or doubled >= DOUBLED:
        raise SourceError(
            f"{path}: its samples alternate between two channels, and its name tells of one: read it with --raw"
            f" {raw.encoding}:{raw.rate}:2 (or --raw {raw.encoding}:{raw.rate}:1, if it is one)"
        )
