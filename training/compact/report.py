"""Every number of the model card, per seed and split: MELD with words, with both, and clips alone."""

from typing import Any

from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.decision import Calibration
from training.compact.fusion import judge, single_clips, spoken
from training.compact.mixing import Material, Script, Voices
from training.metrics import Scored, summary

CORPORA = ("ravdess", "emodb")
HALF = 0.5  # brings sound alone near what is published for the real sound of MELD
CLEAN, TRIMMED, PHONE = 0, 1, 2  # views of vectors.encode_sound


def measure(model: BCAF, calibration: Calibration, material: Material) -> dict[str, Any]:
    """Plain values in per cent; `phone` is 8 kHz mu-law."""
    text_width = material.scripts[0].vectors_VUT.shape[-1]
    found: dict[str, Any] = {}
    for name, view in (("words", 0), ("spoiled words", 1)):
        scripts = [Script(s.vectors_VUT[view : view + 1], s.labels_U) for s in material.scripts]
        only = Material(scripts, material.voices)
        found[name] = _shown(judge(model, calibration, spoken(only, "text_only")))
    for case in ("both", "audio_only"):
        found[f"MELD {case}"] = _shown(judge(model, calibration, spoken(material, case)))
        half = spoken(material, case, mismatch=HALF)
        found[f"MELD {case}, half mismatched"] = _shown(judge(model, calibration, half))
    for corpus in CORPORA:
        voices = of_corpus(material.voices, corpus)
        for name, view in (("clean", CLEAN), ("trimmed", TRIMMED), ("phone", PHONE)):
            judged = judge(model, calibration, single_clips(voices, text_width, view))
            found[f"{corpus} {name}"] = _shown(judged)
    return found


def of_corpus(voices: Voices, corpus: str) -> Voices:
    """The clips of one corpus."""
    chosen_N = [str(speaker).startswith(corpus) for speaker in voices.speakers_N]
    return Voices(voices.vectors_VNA[:, chosen_N], voices.labels_N[chosen_N], voices.speakers_N[chosen_N])


def _shown(judged: Scored) -> dict[str, Any]:
    whole = summary(judged, draws=2)
    return {
        "n": whole["n"],
        "weighted_f1": round(100 * whole["weighted_f1"], 1),
        "unweighted_recall": round(100 * whole["unweighted_recall"], 1),
        "ece": round(whole["ece"], 3),
        "f1": {label: round(100 * one["f1"], 1) for label, one in whole["per_class"].items() if one["n"]},
    }
