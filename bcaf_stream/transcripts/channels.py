"""Which channel of the call a transcript means by its own labels and names.

Transcript formats carry "1", "A", "ch_0", a speaker or a voice. A channel's label that fits no channel is an
error, never a guess: words on the wrong side of a call would turn the agent's mood into the customer's. A name
that fits none is nobody's label: its words go where they are spoken, and the user can say whose they are.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import cast, get_args

from bcaf_stream.errors import TranscriptError, UsageError
from bcaf_stream.transcripts.cues import Cue
from bcaf_stream.transcripts.names import ROLE_WORDS
from bcaf_stream.types import Channel, Role

POSITION = re.compile(r"(?:ch|channel)?[ _-]?(?:(?P<number>\d{1,2})|(?P<letter>[A-P]))$", re.IGNORECASE)
SPEAKER = re.compile(r"(?:speaker|spk)[ _-]*(?=\S)")
ASIDE = re.compile(r"\s*\([^()]*\)\s*$")  # Agent (Daniel)
NUMBERED = re.compile(r"[ _#-]*\d{1,3}$")  # Customer 1


def resolve_channel(labels: Sequence[str], channels: Sequence[str], zero_based: bool = False) -> str | None:
    """Return the channel that the first fitting label means; None if there is no label at all.

    Exact names are tried for every label before positions ("A" or "1" is the first channel, "B" or "2" the
    second; with `zero_based` numbers begin at 0), so that a speaker's name wins over the channel column beside it.
    Case does not matter unless two channels differ in nothing else.

    Raises:
        TranscriptError: labels are given and none fits; the message names the allowed ones.
    """
    if not labels:
        return None
    for label in labels:
        if label in channels:
            return label
        alike = [name for name in channels if name.casefold() == label.casefold()]
        if len(alike) == 1:
            return alike[0]
    for label in labels:
        position = _position(label, zero_based)
        if position is not None and position < len(channels):
            return channels[position]
    numbers = ("A or 0", "B or 1") if zero_based else ("A or 1", "B or 2")
    given = " / ".join(repr(label[:40]) for label in labels)
    raise TranscriptError(
        f"channel {given} is not in this call: name one of {', '.join(channels)}"
        f" (or, by position, {', '.join(numbers[: len(channels)])})"
    )


def _position(label: str, zero_based: bool) -> int | None:
    found = POSITION.match(label)
    if found is None:
        return None
    if found["letter"]:
        return ord(found["letter"].upper()) - ord("A")
    number = int(found["number"]) - (not zero_based)
    return number if number >= 0 else None


class Attribution:
    """Says whose the words of one file are.

    On a call of one channel, the speakers whom the file tells apart become channels themselves (`lanes`).

    Args:
        channels: the call's.
        speakers: what the user said: a name in the file -> a channel of the call, or a role.
        cues: all cues of the file, with the speakers that were found in their text.

    Raises:
        UsageError: a speaker's target is neither a channel nor a role.
        TranscriptError: a speaker is not in the file.
    """

    def __init__(self, channels: Sequence[Channel], speakers: Mapping[str, str], cues: Sequence[Cue]) -> None:
        self._channels = {channel.name: channel for channel in channels}
        self._zero_based = any(c.channel in ("0", "ch_0") for c in cues)
        places = {c.channel for c in cues if isinstance(c.channel, str) and POSITION.match(c.channel)}
        # A table that has 1 everywhere is that of a mix: recognisers write it for any sound with one channel.
        self._mix = next(iter(places - set(self._channels)), None) if len(places) == 1 < len(channels) else None
        self._unmapped: dict[str, None] = {}
        self._taken: set[str | int] = set()  # labels that say nothing
        there = dict.fromkeys(name for cue in cues if (name := called(cue)))
        self._check_named(speakers, there)
        self.lanes = self._lanes(channels, speakers, there)
        self._speakers = {name: self._target(name, target) for name, target in speakers.items()}

    @property
    def note(self) -> str:
        """What the user can say of the names of which nobody has said whose they are; empty if there are none.

        It is complete when every cue has been attributed.
        """
        names = [lane.name for lane in self.lanes if lane.role == "speaker"] or list(self._unmapped)
        if not names:
            mixed = f"all of it is channel {self._mix!r}: its words go where they are spoken"
            return mixed if self._mix is not None and self._mix in self._taken else ""
        listed = ", ".join(f'"{name}"' for name in names[:8]) + (" ..." if len(names) > 8 else "")
        if self.lanes:
            return f'speakers without a role: {listed}; --speaker "{names[0]}"=customer (or agent) gives one'
        allowed = " or ".join(self._channels)
        return (
            f"speakers who are no channel of the call: {listed}; their words go where they are spoken, or by"
            f' --speaker "{names[0]}"=CHANNEL with {allowed}'
        )

    def channel(self, cue: Cue) -> str | None:
        """The channel of a cue; None: where it is spoken.

        Raises:
            TranscriptError: the label of its channel fits no channel.
        """
        if self.lanes:
            return called(cue)
        by_name = self._by_name(cue.speaker) if cue.speaker else None
        if by_name is not None:
            return by_name
        if cue.channel is not None and (cue.channel != self._mix or self._by_name(cue.channel) is not None):
            return self._by_label(cue.channel)
        if cue.channel is not None:
            self._taken.add(cue.channel)
        if cue.speaker:
            self._unmapped[cue.speaker] = None
        return None

    def _by_label(self, label: str | int) -> str:
        names = list(self._channels)
        if isinstance(label, int):
            given = next((c for name, c in self._speakers.items() if _same(name, f"channel {label}")), None)
            if given is not None:
                return given
            if label < len(names):
                return names[label]
            raise TranscriptError(f"channel {label} (from 0) is not in this call, which has {', '.join(names)}")
        found = self._by_name(label)
        if found is None:
            found = resolve_channel([label], names, self._zero_based)
        assert found is not None
        return found

    def _by_name(self, name: str) -> str | None:
        for given, channel in self._speakers.items():
            if _same(given, name):
                return channel
        bare = ASIDE.sub("", name)
        for label in dict.fromkeys((name, bare)):
            alike = [c for c in self._channels if c == label] or [
                c for c in self._channels if c.casefold() == label.casefold()
            ]
            if len(alike) == 1:
                return alike[0]
        role = _role_word(name)
        return self._of_role(role) if role else None

    def _of_role(self, role: str) -> str | None:
        fitting = [channel.name for channel in self._channels.values() if channel.role == role]
        return fitting[0] if len(fitting) == 1 else None

    def _target(self, name: str, target: str) -> str:
        if self.lanes:
            return name
        found = target if target in self._channels else self._of_role(target)
        if found is None:
            raise UsageError(f'--speaker "{name}"={target}: must be one of {", ".join(self._channels)}')
        return found

    @staticmethod
    def _check_named(speakers: Mapping[str, str], there: Collection[str]) -> None:
        for name in speakers:
            if not any(_same(name, other) for other in there):
                listed = ", ".join(f'"{other}"' for other in there) or "no speakers"
                raise TranscriptError(f'--speaker "{name}": the transcript names {listed}')

    def _lanes(
        self, channels: Sequence[Channel], speakers: Mapping[str, str], there: Collection[str]
    ) -> tuple[Channel, ...]:
        if len(channels) != 1 or not there:
            return ()
        (only,) = channels
        if len(there) == 1 and not speakers:
            (name,) = there
            if name.casefold() == only.name.casefold() or _position(name, self._zero_based) == 0:
                return ()
        lanes = []
        for name in there:
            given = next((target for known, target in speakers.items() if _same(known, name)), None)
            if given is not None and given not in get_args(Role):
                raise UsageError(f'--speaker "{name}"={given}: must be one of {", ".join(get_args(Role))}')
            lanes.append(Channel(name, cast(Role, given or _role_word(name) or only.role)))
        return tuple(lanes)


def called(cue: Cue) -> str | None:
    """What the file calls whoever speaks."""
    if cue.speaker:
        return cue.speaker
    return f"channel {cue.channel}" if isinstance(cue.channel, int) else cue.channel


def _role_word(name: str) -> str | None:
    return ROLE_WORDS.get(NUMBERED.sub("", ASIDE.sub("", name)).casefold())


def _same(given: str, name: str) -> bool:
    """Whether the user means this name: case and blanks do not matter, nor does `speaker` before a number."""
    one, other = (" ".join(n.casefold().split()) for n in (given, name))
    return one == other or SPEAKER.sub("", one) == SPEAKER.sub("", other)
