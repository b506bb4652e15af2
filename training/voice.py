"""Where the adaptation to a voice begins (bcaf_stream/model/adaptation.py), measured on labelled speech.

It is the mean of the log-probabilities by sound alone, each class alike, and each corpus alike: what a voice says
beyond that is its own. Measure it on voices that the weights were not trained on.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.model.adaptation import LEAST, VoicePrior
from training.metrics import Scored


def fit_voice(corpora: Sequence[Scored], like: VoicePrior | None = None) -> VoicePrior | None:
    """The prior of `corpora`, judged by sound alone, weight and bound of `like`; None where nobody speaks."""
    means = [_mean(one) for one in corpora if len(one.truth_N)]
    if not means:
        return None
    kept = {} if like is None else {"weight": like.weight, "bound": like.bound}
    return VoicePrior(mean_log_probs=tuple(np.mean(means, axis=0).round(3).tolist()), **kept)


def _mean(judged: Scored) -> NDArray[np.float64]:
    said_NC = np.log(judged.probs_NC.clip(LEAST))
    mean_C: NDArray[np.float64] = np.mean(
        [said_NC[judged.truth_N == label].mean(0) for label in np.unique(judged.truth_N)], axis=0
    )
    return mean_C
