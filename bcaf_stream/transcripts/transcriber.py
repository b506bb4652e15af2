"""What a recogniser is, what it is given, and what of its text is believed; the same for all of them.

The models were trained on captions of films: about noise they say "You" or "Thank you for watching", and on
long sound they may repeat themselves for ever. What is cut, and what is not believed, is decided here once.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from bcaf_stream.types import SAMPLE_RATE, PcmN

SHORTEST = SAMPLE_RATE // 10  # less holds no word
LONGEST = 15 * SAMPLE_RATE  # Moonshine begins to repeat itself on longer sound
FRAME = SAMPLE_RATE // 50  # 20 ms, for levels
SILENCE_RMS = 10.0  # of the loudest frame, -70 dBFS: below the noise of a quiet line
INVENTED = {"", "you", "the", "thank you for watching", "thanks for watching"}  # as the whole text
REPEATED_WORD = re.compile(r"\b(\w+)(?:\W+\1\b){4,}", re.IGNORECASE)
LONG_PHRASE = 8  # words
REPEATED_PHRASE = re.compile(r"\b(\w+(?:\W+\w+){1,7}?)(?:\W+\1\b){3,}", re.IGNORECASE)


class Transcription(NamedTuple):
    """The words of a stretch of sound, "" if there are none, and how surely they are the right ones.

    `confidence` is the probability that a word of it is right; None where the recogniser cannot say.
    """

    text: str
    confidence: float | None = None


class Transcriber(Protocol):
    """Turns speech into text; safe to call from several threads, which then wait for each other."""

    name: str

    def transcribe(self, samples: PcmN) -> Transcription:
        """Return the words in mono PCM at SAMPLE_RATE; raises AsrError."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BatchTranscriber(Transcriber, Protocol):
    """One that gains by being given several segments at once."""

    def transcribe_all(self, batch: Sequence[PcmN]) -> list[Transcription]:
        """As `transcribe`, of each."""
        ...


def joined(samples: PcmN, hear: Callable[[PcmN], Transcription]) -> Transcription:
    """What `hear` makes of each piece of the sound, as far as it is believable; its confidence by words."""
    return _joined(map(hear, audible_pieces(samples)))


def joined_all(
    batch: Sequence[PcmN], hear_all: Callable[[list[PcmN]], Sequence[Transcription]]
) -> list[Transcription]:
    """The same of each, where `hear_all` takes the pieces of all of them at once."""
    pieces = [list(audible_pieces(samples)) for samples in batch]
    heard = iter(hear_all(list(chain.from_iterable(pieces))))
    return [_joined(islice(heard, len(its))) for its in pieces]


def _joined(pieces: Iterable[Transcription]) -> Transcription:
    heard = [(believable(text), confidence) for text, confidence in pieces]
    words = [(len(text.split()), confidence) for text, confidence in heard if text and confidence is not None]
    total = sum(count for count, _ in words)
    confidence = sum(count * sure for count, sure in words) / total if total else None
    return Transcription(" ".join(text for text, _ in heard if text), confidence)


def audible_pieces(samples: PcmN) -> Iterator[PcmN]:
    """Cut a segment at its quietest moments into pieces of at most LONGEST; leave out what cannot hold a word."""
    while len(samples) > LONGEST:
        cut = LONGEST // 2 + _quietest(samples[LONGEST // 2 : LONGEST])
        yield from audible_pieces(samples[:cut])
        samples = samples[cut:]
    if len(samples) >= SHORTEST and max(_levels(samples)) >= SILENCE_RMS:
        yield samples


def believable(text: str) -> str:
    """Return recognised text without what these models invent about noise; "" if nothing is left."""
    text = " ".join(text.replace("♪", " ").split())
    plain = re.sub(r"[^\w\s']", "", text).strip().lower()
    if plain in INVENTED or not any(c.isalpha() for c in plain):
        return ""
    # A phrase said four times on end, and a long one twice with nothing else, are the model's loop: so it hears
    # languages that it does not know. A word may be said often, and is told once.
    shorter = REPEATED_PHRASE.sub("", text)
    if len(shorter) < len(text) / 2 or _is_said_again(plain.split()):
        return ""
    return REPEATED_WORD.sub(r"\1", REPEATED_PHRASE.sub(r"\1", text))


def _is_said_again(words: Sequence[str]) -> bool:
    """Whether it is one long phrase, twice or more, and nothing else."""
    lengths = (n for n in range(LONG_PHRASE, len(words) // 2 + 1) if len(words) % n == 0)
    return any(words[n:] == words[:-n] for n in lengths)


def _levels(samples: PcmN) -> list[float]:
    whole = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    return np.sqrt((whole**2).mean(axis=1)).tolist()


def _quietest(samples: PcmN) -> int:
    return int(np.argmin(_levels(samples))) * FRAME + FRAME // 2
