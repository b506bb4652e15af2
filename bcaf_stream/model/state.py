"""What a dialogue remembers between two utterances: a value that travels, never changed in place.

Legend: B dialogues, K = context - 1 cached utterances, W width of one cached row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcaf_stream.errors import ModelError
from bcaf_stream.model.adaptation import Heard, Voices

SCHEMA = 2


class DumpedState(TypedDict):
    """A state in plain values, fit for msgpack: `cache` is little-endian float32, of shape `shape`.

    `voices` has for each dialogue [voice, count, sum of log-probabilities] of each voice, the last heard last.
    """

    schema: int
    model: str
    count: list[int]
    shape: list[int]
    cache: bytes
    voices: list[list[tuple[str, int, list[float]]]]


@dataclass(frozen=True, slots=True, eq=False)
class DialogueState:
    """Keys and values of the last K utterances of B dialogues, oldest first, and how many each has seen.

    cache_BKW is float32; of its K rows the last min(count, K) are filled and the others are zero. `model`
    names the weights that computed it: keys of one model mean nothing to another. `voices_B` is what
    adaptation has heard in each dialogue.
    """

    cache_BKW: Tensor
    count_B: Tensor
    model: str
    voices_B: tuple[Voices, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by way of numpy: three times as fast, and Ray moves its memory without a copy."""
        cache = self.cache_BKW.detach().cpu().numpy()
        return _restored, (cache, self.count_B.cpu().numpy(), self.model, self.voices_B)

    @property
    def batch(self) -> int:
        return self.count_B.shape[0]

    @staticmethod
    def stack(states: "Sequence[DialogueState]") -> "DialogueState":
        """One state for a batch, from states of any positions.

        Raises:
            ModelError: there are none, or they belong to different models.
        """
        if not states:
            raise ModelError("no dialogue states to stack; give at least one")
        if len({(state.model, *state.cache_BKW.shape[1:]) for state in states}) > 1:
            raise ModelError("dialogue states of different models cannot be stacked; step each with its own model")
        cache_BKW = torch.cat([state.cache_BKW for state in states])
        voices_B = tuple(voices for state in states for voices in state.voices_B)
        return DialogueState(cache_BKW, torch.cat([state.count_B for state in states]), states[0].model, voices_B)

    def split(self) -> "list[DialogueState]":
        """One state per dialogue, each with its own memory: a view would keep the whole batch alive."""
        return [
            DialogueState(
                self.cache_BKW[b : b + 1].clone(), self.count_B[b : b + 1].clone(), self.model, (self.voices_B[b],)
            )
            for b in range(self.batch)
        ]

    def to(self, device: torch.device | str) -> "DialogueState":
        return DialogueState(self.cache_BKW.to(device), self.count_B.to(device), self.model, self.voices_B)

    def dump(self) -> DumpedState:
        """The state as plain values, with the number of its schema."""
        cache = self.cache_BKW.detach().cpu().numpy().astype("<f4", copy=False)
        return DumpedState(
            schema=SCHEMA,
            model=self.model,
            count=self.count_B.tolist(),
            shape=list(cache.shape),
            cache=cache.tobytes(),
            voices=[
                [(voice, one.utterances, list(one.total)) for voice, one in voices.items()]
                for voices in self.voices_B
            ],
        )

    @staticmethod
    def load(dumped: Mapping[str, Any], like: "DialogueState") -> "DialogueState":
        """Read a dumped state back; `like` is any state of the model that shall go on with it.

        Raises:
            ModelError: another schema, missing or unknown keys, wrong types or shapes, or another model.
        """
        if dumped.get("schema") != SCHEMA:
            raise ModelError(
                f"dialogue state has schema {dumped.get('schema')!r}, not {SCHEMA}; start the dialogue anew"
            )
        if dumped.keys() != DumpedState.__annotations__.keys():
            odd = sorted(dumped.keys() ^ DumpedState.__annotations__.keys(), key=str)
            raise ModelError(f"dialogue state with missing or unknown keys: {', '.join(map(str, odd))}")
        if dumped["model"] != like.model:
            raise ModelError(
                f"dialogue state of model {dumped['model']!r}, not {like.model!r}; start the dialogue anew"
            )
        count, shape, cache = dumped["count"], dumped["shape"], dumped["cache"]
        if not _counts(count) or list(shape) != [len(count), *like.cache_BKW.shape[1:]]:
            raise ModelError(
                f"dialogue state of shape {shape!r} does not fit this model: {[*like.cache_BKW.shape]}"
            )
        if not isinstance(cache, bytes) or len(cache) != 4 * int(np.prod(shape)):
            raise ModelError("dialogue state is cut short or of another kind; start the dialogue anew")
        values = np.frombuffer(cache, "<f4").astype(np.float32).reshape(shape)
        if not np.isfinite(values).all():
            raise ModelError("dialogue state holds numbers that are not finite; start the dialogue anew")
        voices_B = _voices(dumped["voices"], len(count))
        return DialogueState(torch.from_numpy(values), torch.tensor(count, dtype=torch.long), like.model, voices_B)


def _restored(
    cache_BKW: NDArray[np.float32], count_B: NDArray[np.int64], model: str, voices_B: tuple[Voices, ...]
) -> DialogueState:
    # Copied, because memory that Ray shares is read-only and torch cannot say so.
    return DialogueState(torch.from_numpy(cache_BKW.copy()), torch.from_numpy(count_B.copy()), model, voices_B)


def _voices(dumped: object, batch: int) -> tuple[Voices, ...]:
    wrong = ModelError("dialogue state holds voices that cannot be read; start the dialogue anew")
    if not isinstance(dumped, list) or len(dumped) != batch:
        raise wrong
    try:
        found = tuple(
            {str(voice): Heard(int(count), tuple(map(float, total))) for voice, count, total in one}
            for one in dumped
        )
    except (TypeError, ValueError):
        raise wrong from None
    heard = [one for voices in found for one in voices.values()]
    if any(one.utterances < 0 or not np.isfinite(one.total).all() for one in heard):
        raise wrong
    return found


def _counts(count: object) -> bool:
    return isinstance(count, list) and bool(count) and all(type(n) is int and n >= 0 for n in count)
