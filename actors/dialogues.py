"""The owner's side of a dialogue: what the next utterance is asked with, whatever model judges it."""

from dataclasses import dataclass

from actors.emotion_actor import Answer, Request
from actors.replica_pool import ReplicaPool
from bcaf_stream.model.bcaf import DialogueState
from bcaf_stream.types import EmotionPrediction, Features, Utterance


@dataclass(frozen=True, slots=True, eq=False)
class Dialogue:
    """A state of the model that judged last, and the features it is made of, of which another makes its own."""

    state: DialogueState
    model: str
    features: tuple[Features, ...]


class EmotionPool:
    """`predict` on whichever replica has the model that is wanted; `model` "" is whatever one has."""

    def __init__(self, replicas: ReplicaPool) -> None:
        self.replicas = replicas
        self.model = ""

    async def predict(
        self, dialogue: Dialogue | None, utterance: Utterance, urgent: bool = True
    ) -> tuple[EmotionPrediction, Dialogue]:
        """The emotion of the next utterance of a dialogue, and where that stands then; None begins one.

        Raises:
            ModelError: as EmotionActor.predict.
            DeploymentError: as ReplicaPool.ask.
        """
        answer: Answer = await self.replicas.ask_for(
            "predict", lambda: (self._request(dialogue, utterance), urgent)
        )
        past = () if dialogue is None else dialogue.features
        known = (*past, answer.features)[-max(1, answer.reach) :]
        return answer.prediction, Dialogue(answer.state, answer.prediction.model, known)

    def _request(self, dialogue: Dialogue | None, utterance: Utterance) -> Request:
        if dialogue is None:
            return Request(None, utterance, self.model)
        if dialogue.model == self.model:
            return Request(dialogue.state, utterance, self.model)
        return Request(None, utterance, self.model, dialogue.features)
