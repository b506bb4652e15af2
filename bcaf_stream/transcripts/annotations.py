"""Annotations of linguists: Praat's TextGrid, ELAN's EAF and EXMARaLDA's EXB, whose tiers are people.

Sources: Praat manual, "TextGrid file formats"; EAF 3.0 (Max Planck Institute for Psycholinguistics); EXMARaLDA
basic transcriptions. Of a forced aligner's tiers (`Name - words`, `Name - phones`) the words alone are read.
"""

import re
from collections.abc import Iterator
from itertools import islice
from xml.etree import ElementTree

from bcaf_stream.errors import TranscriptError
from bcaf_stream.transcripts.cues import Cue, seconds

# Praat reads quoted texts and numbers that stand alone; everything else is for the human reader.
TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(-?\d+(?:\.\d+)?(?:[eE]-?\d+)?)(?!\S)')
ALIGNED = re.compile(r"(?:(?P<name>.*) - )?(?P<kind>words|phones)$", re.IGNORECASE)
NO_WORDS = {"sp", "sil", "spn", "<eps>"}  # of aligners


def is_textgrid(head: str) -> bool:
    return "ooTextFile" in head[:200] and "TextGrid" in head[:200]


def parse_textgrid(text: str) -> Iterator[Cue]:
    """Long and short text files; points are no speech, and intervals without a label are pauses."""
    tokens = (token[2] if token[1] is None else token[1].replace('""', '"') for token in TOKEN.finditer(text))
    try:
        _, _, _, _, count = islice(tokens, 5)
        tiers = [_tier(tokens) for _ in range(int(count))]
    except (ValueError, StopIteration, RuntimeError):
        raise TranscriptError("line 1: taken for a TextGrid, but it ends too early or has another form") from None
    tiers = [(name, rows) for name, rows in tiers if rows]
    aligned = {name for name, _ in tiers if ALIGNED.match(name)}
    for name, rows in tiers:
        found = ALIGNED.match(name)
        if found is None and aligned and len(aligned) < len(tiers):
            continue  # the sentences that the words were aligned from
        if found is not None and found["kind"].lower() == "phones":
            continue
        speaker = (found["name"] if found else name) if len(tiers) > 1 else None
        for number, (start, end, said) in enumerate(rows, 1):
            where = f"tier {name}, interval {number}"
            if said.strip() and not (found and said.strip().lower() in NO_WORDS):
                yield Cue(where, seconds(where, "xmin", start), seconds(where, "xmax", end), said, None, speaker)


def _tier(tokens: Iterator[str]) -> tuple[str, list[tuple[str, str, str]]]:
    kind, name, _, _, count = islice(tokens, 5)
    if kind == "TextTier":
        for _ in range(2 * int(count)):
            next(tokens)
        return name.strip(), []
    return name.strip(), [(next(tokens), next(tokens), next(tokens)) for _ in range(int(count))]


def is_eaf(head: str) -> bool:
    return "<ANNOTATION_DOCUMENT" in head[:2000]


def parse_eaf(text: str) -> Iterator[Cue]:
    """ELAN: the tiers with times of their own; what depends on them (translations, glosses) is not speech."""
    root = _xml(text)
    times = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    for tier in root.iter("TIER"):
        speaker = tier.get("PARTICIPANT") or tier.get("TIER_ID")
        for number, one in enumerate(tier.iter("ALIGNABLE_ANNOTATION"), 1):
            where = f"tier {tier.get('TIER_ID')}, annotation {number}"
            start, end = (times.get(one.get(key)) for key in ("TIME_SLOT_REF1", "TIME_SLOT_REF2"))
            if start is None or end is None or not (start + end).isdecimal():
                raise TranscriptError(f"{where}: has no times: align it in ELAN")
            said = one.findtext("ANNOTATION_VALUE") or ""
            if said.strip():
                yield Cue(where, int(start), int(end), said, None, speaker)


def is_exb(head: str) -> bool:
    return "<basic-transcription" in head[:2000]


def parse_exb(text: str) -> Iterator[Cue]:
    """EXMARaLDA: the tiers of what is said (type t) on the common timeline."""
    root = _xml(text)
    times = {one.get("id"): one.get("time") for one in root.iter("tli")}
    people = {one.get("id"): one.findtext("abbreviation") for one in root.iter("speaker")}
    for tier in (one for one in root.iter("tier") if one.get("type") == "t"):
        speaker = people.get(tier.get("speaker")) or tier.get("speaker")
        for number, event in enumerate(tier.iter("event"), 1):
            where = f"tier {tier.get('id')}, event {number}"
            start, end = (seconds(where, key, times.get(event.get(key))) for key in ("start", "end"))
            if (event.text or "").strip():
                yield Cue(where, start, end, event.text or "", None, speaker)


def _xml(text: str) -> ElementTree.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TranscriptError("line 1: an XML file with a DOCTYPE is not read: take that line out")
    try:
        return ElementTree.fromstring(text.lstrip())
    except ElementTree.ParseError as error:
        raise TranscriptError(f"line {error.position[0]}: not valid XML") from None
