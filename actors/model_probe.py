"""Whether other weights can take over running calls: they fit the present ones, and judge the call that ships.

No utterance of a caller is kept for this: the demo call, which is nobody's, is the one that is always there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bcaf_stream.analyzer import AnalyzerConfig, ConversationAnalyzer
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.emotion_model import EmotionEngine
from bcaf_stream.errors import CheckpointError
from bcaf_stream.events.event import Event
from bcaf_stream.events.progress import settled
from bcaf_stream.recording import Recording

SAME = 1e-4  # probabilities that differ by less are the same answer


@dataclass(frozen=True, slots=True)
class Probe:
    """`judged` of the `utterances` of the demo call have an emotion; in `agreed` it is the present model's."""

    utterances: int
    judged: int
    agreed: int


def probe(new: EmotionEngine, present: EmotionEngine) -> Probe:
    """Judge the demo call by both.

    Raises:
        CheckpointError: the new weights cannot go on with the running calls, or judge nothing.
    """
    for what, its, ours in (
        ("labels", new.labels, present.labels),
        ("modalities", new.modalities, present.modalities),
        ("encoders", new.encoders_id, present.encoders_id),
    ):
        if its != ours:
            raise CheckpointError(
                f"{new.model_id} has other {what} than {present.model_id}, and cannot go on with running calls:"
                " bcaf-serve drain, down, and up with it"
            )
    answers = {event.id: event for event in _events(new)}
    before = {event.id: event for event in _events(present)}
    judged = [event for event in answers.values() if event.emotion is not None]
    if not judged:
        said = next((event.reason for event in answers.values() if event.reason), "nothing")
        raise CheckpointError(f"{new.model_id} judges no utterance of the demo call: {said}")
    first = judged[0].probs or {}
    if len(judged) > 1 and all(_same(event.probs or {}, first) for event in judged):
        raise CheckpointError(f"{new.model_id} gives the same answer to every utterance of the demo call")
    agreed = sum(event.id in before and before[event.id].emotion == event.emotion for event in judged)
    return Probe(len(answers), len(judged), agreed)


def _events(engine: EmotionEngine) -> list[Event]:
    """What becomes of each utterance of the demo call, given its words."""
    recording = Recording.open(str(CALL), call="probe")
    words = recording.transcript(SCRIPT) if "text" in engine.modalities else None
    analyzer = ConversationAnalyzer(recording.call, AnalyzerConfig(), engine, None, words)
    try:
        with recording.chunks() as source:
            found = [segment for item in source.with_gaps() for segment in analyzer.cut(item)]
        events = [*analyzer.analyze(found), *analyzer.flush()]
    finally:
        analyzer.close()
    return [*settled(events), *(e for e in events if e.type == "degraded" and e.utterance is not None)]


def _same(probs: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return all(abs(prob - others.get(label, 0.0)) < SAME for label, prob in probs.items())
