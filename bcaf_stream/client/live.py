"""Sound that comes live, sent to a deployment as it comes: standard input and the microphone.

The pace is the source's. What a deployment does not take yet, because it is too far behind or was lost, is kept;
when there is no room for more, the sender waits, and with it the program before the pipe. A microphone does not
wait: then the oldest sound is given up, and is a gap in the call.
"""

import io
import itertools
import sys
import time
from collections.abc import Mapping, Sequence

from bcaf_stream.audio.live_sources import EncodedPipe, LiveSource, Microphone, PcmPipe, PeekedPipe
from bcaf_stream.audio.raw import RawFormat
from bcaf_stream.audio.sniffing import sniff
from bcaf_stream.audio.sources import default_channels
from bcaf_stream.client.link import LinkSender, SenderConfig
from bcaf_stream.console import connection_note, stderr_note
from bcaf_stream.errors import SourceError, UsageError
from bcaf_stream.ingest.protocols.link import Closed
from bcaf_stream.recording import TextMode, with_roles
from bcaf_stream.types import Call, Words

EXAMPLE = "ffmpeg -i CALL -f s16le -ar 16000 -ac 2 - | bcaf-stream send - --rate 16000 --channels 2"


def live_source(
    word: str, rate: int | None, channels: int | None, device: str | None, raw: RawFormat | None = None
) -> LiveSource:
    """What `-` or `mic` stands for on a command line.

    What is piped in is looked at: a container (WAV, Ogg, MP3...) is decoded, whatever rate was given for samples.
    Samples are s16le at `rate`, or what `raw` says.

    Raises:
        UsageError: nothing is piped in, or samples without a rate, or a container with other channels than said.
        SourceError: the microphone cannot be had, or the container cannot be read.
    """
    if word == "mic":
        return Microphone(rate or 16_000, channels or 1, device)
    if device is not None:
        raise UsageError("send -: standard input has no --device")
    pipe = getattr(sys.stdin, "buffer", None)
    if not isinstance(pipe, io.BufferedReader) or pipe.isatty():
        raise UsageError(f"send -: nothing is piped into standard input; try {EXAMPLE}")
    peeked = PeekedPipe(pipe)
    kind = sniff(peeked.head)
    whole = io.BufferedReader(peeked)
    if raw is not None:
        if kind is not None:
            raise UsageError(
                f"send -: what is piped in is a {kind} stream, not raw {raw.encoding}: leave out --raw"
            )
        if rate is not None or channels is not None:
            raise UsageError("send -: --raw says rate and channels: leave out --rate and --channels")
        return PcmPipe(whole, raw.rate, raw.channels) if raw.encoding == "s16le" else EncodedPipe(whole, raw)
    if kind is None:
        if rate is None:
            raise UsageError(f"send -: samples of 16 bits need --rate, others --raw; try {EXAMPLE}")
        return PcmPipe(whole, rate, channels or 1)
    source = EncodedPipe(whole)
    holds = f"what is piped in is a {kind} stream of {source.channels} channels at {source.rate} Hz"
    if channels not in (None, source.channels):
        raise UsageError(f"send -: {holds}: leave out --channels {channels}")
    if rate not in (None, source.rate):
        stderr_note(f"bcaf-stream: {holds}; --rate {rate} is for raw samples and of no effect")
    return source


def live_call(word: str, channels: int, roles: Mapping[str, str], call: str | None) -> Call:
    """The call of a live source, named by the time unless it has a name.

    Raises:
        UsageError: a role or its channel is unknown.
    """
    name = "stdin" if word == "-" else word
    return Call(call or name + time.strftime("-%Y%m%d-%H%M%S"), with_roles(default_channels(channels), roles))


def send_live(
    source: LiveSource,
    call: Call,
    endpoint: str | Sequence[str],
    text: TextMode,
    words: Sequence[Words] | None = None,
    config: SenderConfig | None = None,
) -> Closed:
    """Send a source to its end, or until it is interrupted: that is how a microphone ends.

    What was sent before an error or an interruption is analysed to its end.

    Raises:
        SourceError: no sound came, or it broke.
        LinkError: the deployment refuses the call, or is not reached for `config.give_up_s`.
    """
    blocks = iter(source)
    first = list(itertools.islice(blocks, 1))  # before it there is no call: a source may take its time, or fail
    endless = isinstance(source, Microphone)
    if endless:
        stderr_note(f"bcaf-stream: listening as call {call.id}; end with Ctrl-C")
    with LinkSender(
        endpoint, call, source.rate, text, config, live=True, drop=endless, note=connection_note
    ) as sender:
        if words is not None:
            sender.send_words(words, last=True)
        try:
            for samples_NC in itertools.chain(first, blocks):
                sender.send(samples_NC)
        except SourceError:
            sender.close()
            raise
        except KeyboardInterrupt:
            sender.close()
            if not endless:
                raise
        closed = sender.close()
    if source.remark:
        stderr_note(f"bcaf-stream: {source.remark}")
    return closed
