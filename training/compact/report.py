"""Every number of the model card, per seed and split: dialogues with words, with both, and clips alone."""

from dataclasses import replace
from typing import Any

import numpy as np

from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.decision import Calibration
from training.compact.clips import ANCHORS
from training.compact.fusion import judge, neutral_lines, single_clips, spoken
from training.compact.mixing import CompactSplit, Script, Sound
from training.metrics import Scored, summary

SOUNDS: tuple[Sound, ...] = ("matched", "half", "everyday")  # on test, without meetings, the last is calm acting
CLEAN, TRIMMED, PHONE = 0, 1, 2  # views of vectors.encode_sound


def measure(model: BCAF, calibration: Calibration, data: CompactSplit) -> dict[str, Any]:
    """Plain values in per cent; `phone` is 8 kHz mu-law."""
    found: dict[str, Any] = {}
    for name, view in (("words", 0), ("spoiled words", 1)):
        scripts = [Script(s.vectors_VUT[view : view + 1], s.labels_U) for s in data.scripts]
        found[name] = _shown(judge(model, calibration, spoken(replace(data, scripts=scripts), "text_only")))
    plain = [Script(s.vectors_VUT[:1], s.labels_U) for s in data.scripts]
    for sound in SOUNDS:
        for case in ("both", "audio_only"):
            dialogues = spoken(replace(data, scripts=plain), case, sound)
            found[f"{sound}, {case}"] = _shown(judge(model, calibration, dialogues))
    for corpus in sorted(set(data.voices.corpora_N) - {ANCHORS}):
        voices = data.voices.where(data.voices.corpora_N == corpus)
        for name, view in (("clean", CLEAN), ("trimmed", TRIMMED), ("phone", PHONE)):
            found[f"{corpus} {name}"] = _shown(judge(model, calibration, single_clips(voices, view)))
        for name, words_NT in (
            ("own words", voices.words_NT),
            ("a neutral line", neutral_lines(plain, len(voices))),
        ):
            judged = judge(model, calibration, single_clips(voices, CLEAN, words_NT))
            found[f"{corpus} clean, {name}"] = _shown(judged)
    return found


def merit(found: dict[str, Any]) -> float:
    """By which a seed is chosen, of its numbers on dev."""
    f1 = [found[name]["weighted_f1"] for name in ("words", "matched, both", "half, both")]
    recall = [one["unweighted_recall"] for name, one in found.items() if name.endswith((" clean", " phone"))]
    return float(np.mean(f1) + np.mean(recall)) / 2


def _shown(judged: Scored) -> dict[str, Any]:
    whole = summary(judged, draws=2)
    return {
        "n": whole["n"],
        "weighted_f1": round(100 * whole["weighted_f1"], 1),
        "unweighted_recall": round(100 * whole["unweighted_recall"], 1),
        "ece": round(whole["ece"], 3),
        "f1": {label: round(100 * one["f1"], 1) for label, one in whole["per_class"].items() if one["n"]},
    }
