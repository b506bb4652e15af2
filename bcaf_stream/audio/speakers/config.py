"""What decides whose utterance a segment is, and where it is cut; all thresholds of `audio.speakers`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.types import Channel, Role

MOST = 20  # speakers of a channel, where nobody says how many


class SpeakerConfig(Config):
    """Tell at most `max` people apart on one channel; whoever comes after them is given the voice that is closest.

    `enrol` has a sound file of one person, five seconds of speech or more, for a role: whoever has that voice has
    the role, and its policy holds for all who may be them.
    """

    max: Annotated[int, Field(ge=1, le=64)] = MOST
    enrol: dict[Role, Path] = Field(default_factory=dict)


Speakers = Literal["auto", "off"] | SpeakerConfig


def speakers_of(speakers: Speakers, channels: Sequence[Channel]) -> dict[str, SpeakerConfig]:
    """The channels on which people are told apart, each with how.

    `auto` is for the one channel of a call whose role is `speaker`: a customer's or an agent's channel carries one
    party, and so does each of several `speaker` channels. With `max`, all `speaker` channels are listened to.
    """
    shared = [channel.name for channel in channels if channel.role == "speaker"]
    if speakers == "off" or (speakers == "auto" and len(shared) > 1):
        return {}
    return dict.fromkeys(shared, SpeakerConfig() if speakers == "auto" else speakers)


def enrolled_roles(speakers: Speakers) -> list[Role]:
    return list(speakers.enrol) if isinstance(speakers, SpeakerConfig) else []


def require_voices(speakers: Speakers) -> None:
    """Read the voices that are enrolled, so that a bad file is known before a call comes.

    Raises:
        ConfigError: see `enrolled`.
    """
    if enrolled_roles(speakers):
        from bcaf_stream.audio.speakers.voices import enrolled  # with the networks

        assert isinstance(speakers, SpeakerConfig)
        enrolled(speakers.enrol)
