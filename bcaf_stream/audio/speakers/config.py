"""What decides whose utterance a segment is, and where it is cut; all thresholds of `audio.speakers`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bcaf_stream.config import Config
from bcaf_stream.errors import ConfigError
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


def with_voices(speakers: Speakers, enrol: Mapping[Role, Path], where: str) -> Speakers:
    """The same with more voices, which the setting `where` names.

    Raises:
        ConfigError: nobody is told apart.
    """
    if not enrol:
        return speakers
    if speakers == "off":
        raise ConfigError(f"{where}: is for people who are told apart: not with audio.speakers=off")
    known = SpeakerConfig() if speakers == "auto" else speakers
    return known.model_copy(update={"enrol": {**known.enrol, **enrol}})


def require_voices(enrol: Mapping[Role, Path], where: str) -> None:
    """Read the voices that are enrolled by the setting `where`, so that a bad file is known before a call comes.

    Raises:
        ConfigError: see `enrolled`.
    """
    if enrol:
        from bcaf_stream.audio.speakers.voices import enrolled  # with the networks

        enrolled(enrol, where)


def load_networks() -> None:
    """Load what tells people apart; half a second when it is done first. Raises CheckpointError."""
    from bcaf_stream.audio.speakers import models

    models.load()
