"""Where the emotions of a checkpoint lie in the plane of valence and arousal: fitted to rated sentences.

Ratings are EmoBank's (Buechel and Hahn 2017): sentences that several readers rated from 1 to 5. Its own splits are
used: places are fitted on train, RIDGE was chosen on dev. A sentence is judged by its words, as a dialogue of one
utterance.

Legend: N sentences, C classes.
"""

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.errors import DataError
from bcaf_stream.model.affect import Affect, AffectMap
from bcaf_stream.types import Features
from training.datasets.manifest import SPLITS, Split

Floats = NDArray[np.float64]
RIDGE = 10.0  # as many sentences draw each place to the mean rating: some emotions are hardly ever recognised
LOWEST, HIGHEST = 1, 5  # of the readers' scale
AT_ONCE = 64


class Rated(NamedTuple):
    """Sentences of one split with their ratings, in [-1, 1]: `rating_N2` is valence and arousal."""

    texts: list[str]
    rating_N2: Floats


def read_ratings(path: Path) -> dict[Split, Rated]:
    """EmoBank's table (columns split, V, A, text), plain or with .gz.

    Raises:
        DataError: it cannot be read, lacks a column or a split, or holds a rating that is none.
    """
    found: dict[Split, list[tuple[str, float, float]]] = {split: [] for split in SPLITS}
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                valence, arousal = (
                    2 * (float(row[name]) - LOWEST) / (HIGHEST - LOWEST) - 1 for name in ("V", "A")
                )
                if row["split"] not in get_args(Split) or not (abs(valence) <= 1 and abs(arousal) <= 1):
                    raise DataError(f"{path}: line {number}: split or rating is not one of EmoBank's")
                found[cast(Split, row["split"])].append((row["text"], valence, arousal))
    except (OSError, EOFError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: not EmoBank's table of split, V, A and text ({type(error).__name__})") from None
    empty = [split for split, rows in found.items() if not rows]
    if empty:
        raise DataError(f"{path}: holds no sentence of {empty[0]}")
    return {
        split: Rated([text for text, *_ in rows], np.array([rating for _, *rating in rows]))
        for split, rows in found.items()
    }


def probabilities(engine: EmotionEngine, texts: Sequence[str]) -> Floats:
    """(N, C) of sentences, each judged by its words as a dialogue of its own."""
    found: list[tuple[float, ...]] = []
    for start in range(0, len(texts), AT_ONCE):
        vectors = engine.encode_texts(texts[start : start + AT_ONCE])
        predictions, _ = engine.step([engine.initial_state()] * len(vectors), [Features(None, v) for v in vectors])
        found += [one.probs for one in predictions]
    return np.array(found)


def fit_affect(probs_NC: Floats, rating_N2: Floats, ridge: float = RIDGE) -> AffectMap:
    """The places of least squared error; each is drawn to the mean rating by `ridge` sentences."""
    curve_CC = probs_NC.T @ probs_NC + ridge * np.eye(probs_NC.shape[1])
    places_C2 = np.linalg.solve(curve_CC, probs_NC.T @ rating_N2 + ridge * rating_N2.mean(0))
    valence, arousal = places_C2.clip(-1, 1).round(4).T.tolist()
    return AffectMap(valence=tuple(valence), arousal=tuple(arousal))


def agreement(places: AffectMap, probs_NC: Floats, rating_N2: Floats) -> dict[str, dict[str, float]]:
    """Of valence and arousal: concordance (CCC), correlation, RMSE, and the slope of the ratings on the numbers.

    A slope of 1 is calibrated: what lies 0.1 higher is rated 0.1 higher on average.
    """
    said_N2 = np.array([places.of(one) for one in probs_NC.tolist()])
    return {
        name: {
            "ccc": concordance(said_N, rating_N),
            "r": float(np.corrcoef(said_N, rating_N)[0, 1]),
            "rmse": float(np.sqrt(((said_N - rating_N) ** 2).mean())),
            "slope": float(np.polyfit(said_N, rating_N, 1)[0]),
        }
        for name, said_N, rating_N in zip(Affect._fields, said_N2.T, rating_N2.T, strict=True)
    }


def concordance(x_N: Floats, y_N: Floats) -> float:
    """Lin's concordance correlation coefficient: 1 only where both are the same numbers."""
    both = np.cov(x_N, y_N, ddof=0)
    return float(2 * both[0, 1] / (both[0, 0] + both[1, 1] + (x_N.mean() - y_N.mean()) ** 2))
