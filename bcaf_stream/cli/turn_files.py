"""Who spoke when, as files that other tools read: RTTM for those of diarization, SRT for players."""

import json
from collections.abc import Iterable, Sequence

from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import newest, renamed


def rttm(events: Iterable[Event]) -> str:
    """A SPEAKER line for each utterance, in order of time (NIST Rich Transcription 2009, appendix A).

    A field has no blanks. Several channels are numbered in the order in which they are first heard.
    """
    spoken = [e for e in renamed(events) if e.utterance is not None and e.type != "emotion.interim"]
    last = newest(spoken, lambda event: ((event.channel, event.utterance), event.revision))
    channels = list(dict.fromkeys(event.channel for event in last))
    lines = []
    for event in sorted(last, key=lambda event: (event.start_ms or 0, channels.index(event.channel))):
        start_s, length_s = (event.start_ms or 0) / 1000, ((event.end_ms or 0) - (event.start_ms or 0)) / 1000
        about = (_field(event.call), str(channels.index(event.channel) + 1), f"{start_s:.3f}", f"{length_s:.3f}")
        sure = "<NA>" if event.speaker_confidence is None else f"{event.speaker_confidence:.3f}"
        name = event.speaker or event.channel
        if event.speaker and len(channels) > 1:
            name = f"{event.channel}_{event.speaker}"
        lines.append(" ".join(("SPEAKER", *about, "<NA>", "<NA>", _field(name), sure, "<NA>")))
    return "".join(f"{line}\n" for line in lines)


def srt(events: Sequence[Event]) -> str:
    """A cue for each utterance: who, what was felt, how surely, and the words."""
    from bcaf_stream.monitor.exports import export
    from bcaf_stream.monitor.store import as_json

    return export([json.loads(as_json(event)) for event in renamed(events)], "srt")


def _field(text: str) -> str:
    return "_".join(text.split()) or "_"
