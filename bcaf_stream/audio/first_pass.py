"""A first pass over a recording: whose voices are in it, so that the second one knows them from the beginning."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bcaf_stream.audio.speakers.clustering import LocalSpeaker, Voice
from bcaf_stream.audio.speakers.config import speakers_of
from bcaf_stream.audio.speakers.voices import clustered, enrolled, unlike
from bcaf_stream.audio.turns import AudioConfig, CallCutter
from bcaf_stream.errors import SourceError
from bcaf_stream.types import AudioChunk, Call, Gap


def voices_of(call: Call, config: AudioConfig, items: Iterable[AudioChunk | Gap]) -> dict[str, list[Voice]]:
    """The voices of each channel that several people share, those who speak most first, without enrolled ones.

    What comes before a break of the sound is used: the second pass tells of it.
    """
    shared = speakers_of(config.speakers, call.channels)
    if not shared:
        return {}
    heard: dict[str, list[LocalSpeaker]] = defaultdict(list)

    def listen(channel: str, local: Sequence[LocalSpeaker]) -> None:
        heard[channel] += local

    cutter = CallCutter(call, config, listener=listen)
    try:
        for item in items:
            if isinstance(item, Gap):
                cutter.gap(item.channel, item.start, item.end, item.rate)
            else:
                cutter.push(item)
    except SourceError:
        pass
    cutter.flush()
    return {
        channel: [
            Voice(vector)
            for vector in unlike(clustered(local, shared[channel].max), enrolled(shared[channel].enrol))
        ]
        for channel, local in heard.items()
    }
