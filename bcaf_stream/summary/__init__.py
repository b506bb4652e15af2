"""What a call amounts to: events in, aggregates out. Pure; what page, report and alerts share.

`CallSummary.push` takes the events of one call as they come. An utterance is counted as it was told last: a
revision replaces its final, a final its interim result. Interim results are the present, never part of a total.
With `keep`, memory is bounded: the utterances beyond it stay in the totals and are forgotten one by one; a later
revision of such a one is counted in `quality.late_revisions` and changes nothing.

Time is the call's: integer ms of stream time. `now_ms` is the latest that its events speak of.

A voice's anger is not a person's: every share here is of what the model read, weighted by speech.
"""

from bcaf_stream.summary.call import CallSummary
from bcaf_stream.summary.emotion_mass import TurningPoint, Weight, mass, sparkline, trend, turning_points
from bcaf_stream.summary.floor import Floor
from bcaf_stream.summary.said import JUDGED, NEGATIVE, Said, said_of
from bcaf_stream.summary.totals import Quality, RoleSummary

__all__ = [
    "JUDGED",
    "NEGATIVE",
    "CallSummary",
    "Floor",
    "Quality",
    "RoleSummary",
    "Said",
    "TurningPoint",
    "Weight",
    "mass",
    "said_of",
    "sparkline",
    "trend",
    "turning_points",
]
