"""Who is active in each frame of one channel: a stream of frames in, decisions out, with a memory of
the longest segment and a window.

Every HOP frames, and whenever a segment ends, the last WINDOW frames are looked at. Where windows overlap, what
was found before tells which of the local speakers are whom. A frame is decided once LATENCY frames have come
after it, and again by each window that sees it, until the segment it is in is given away. Windows begin and end
at stream times alone: chunks do not matter.

Legend: F frames of 20 ms, P persons, K local speakers, T feature frames of 80 ms, D values of one.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bcaf_stream.audio.frames import FRAME_MS, FRAME_SAMPLES
from bcaf_stream.audio.speakers.clustering import SAME, SAME_S, Clusters, LocalSpeaker, VectorD, Voice
from bcaf_stream.audio.speakers.models import BEFORE, FEATURE_FRAMES, FeaturesTD, activity, frame_features, vector
from bcaf_stream.types import PcmN

WINDOW = 500  # frames: 10 s, which the segmentation was trained with
HOP = 36
LATENCY = 12
BLOCK = 48  # frames that the voice model sees at once: 0.96 s
LEAST = 3  # active frames that make a local speaker
FEW = 15  # frames alone, below which what is spoken at once counts too

Listener = Callable[[Sequence[LocalSpeaker]], object]


class Diarizer:
    """One channel.

    Args:
        most: persons that are told apart.
        longest: frames of a segment; so many are remembered, and a window before them.
        known: voices that are known beforehand.
        listener: told of what is heard of the local speakers of each window.
    """

    def __init__(
        self, most: int, longest: int, known: Sequence[Voice] = (), listener: Listener | None = None
    ) -> None:
        self._most = most
        self._kept = longest + 2 * WINDOW
        self._known = known
        self._listener = listener
        self.reset()

    def reset(self) -> None:
        self.clusters = Clusters(self._most, self._known)
        self._begin_at(0)

    def _begin_at(self, frame: int) -> None:
        self._origin = frame  # nothing is known of what was before it
        self.now = frame  # frames that have come
        self.decided = frame
        self._looked = frame
        self._sound: PcmN = np.zeros(0, np.int16)  # of the frames from self._from on
        self._from = frame
        self._features: dict[int, FeaturesTD | None] = {}  # by block; None: nobody spoke in it
        self._speech = np.zeros(0, bool)
        self._incoming: list[tuple[PcmN, bool]] = []
        columns = len(self.clusters)
        self._active = np.zeros((0, columns), bool)  # of the frames from self._from on, as self._speech
        self._scores = np.zeros((0, columns), np.float32)
        self._seen = np.zeros(0, np.float32)
        self._several = np.zeros(0, np.float32)  # windows that heard more than one
        self._settled = frame
        self._begun: tuple[int, FeaturesTD | None] = (-1, None)  # the block that is not complete

    def push(self, samples: PcmN, speech: bool) -> None:
        """Take the next frame, and whether the VAD found speech in it; a channel's last one may be shorter."""
        if len(samples) < FRAME_SAMPLES:
            samples = np.pad(samples, (0, FRAME_SAMPLES - len(samples)))
        self._incoming.append((samples, speech))
        self.now += 1
        if len(self._incoming) >= WINDOW:  # nobody has spoken for long
            self._take_in()

    def skip(self, frames: int) -> None:
        """So many frames were silence that nobody need look at; the voices are remembered."""
        self._begin_at(self.now + frames)

    @property
    def is_due(self) -> bool:
        return (self.now - self._origin) % HOP == 0

    def look(self, settled: int, *, final: bool = False) -> None:
        """Look at the last window; what was decided of frames before `settled` stays.

        `final`: what has come is decided, for its segment has ended.
        """
        self._take_in()
        self._settled = max(self._settled, settled, self._from)
        if self._looked < self.now:
            self._window(final)
            self._looked = self.now
        self.decided = self.now if final else max(self.decided, self.now - LATENCY)
        open_to = slice(self._settled - self._from, max(self.decided, self._settled) - self._from)
        seen = np.maximum(self._seen[open_to], 1)[:, None]
        self._active[open_to] = self._scores[open_to] > 0.5 * seen

    def active(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Who is active in the decided frames from `begin` to before `end`; a column for each person."""
        found = np.zeros((end - begin, len(self.clusters)), bool)
        first, last = max(begin, self._from), min(end, self._from + len(self._active))
        if first < last:
            found[first - begin : last - begin] = self._active[first - self._from : last - self._from]
        return found

    def several(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Whether more than one is heard in the decided frames, whether or not it is known who."""
        found = np.zeros(end - begin, bool)
        first, last = max(begin, self._from), min(end, self.decided)
        if first < last:
            span = slice(first - self._from, last - self._from)
            found[first - begin : last - begin] = self._several[span] > 0.5 * np.maximum(self._seen[span], 1)
        return found

    def voice(self, begin: int, end: int, person: int) -> VectorD | None:
        """The vector of a person over decided frames; None where too little is heard."""
        active = self.active(begin, end)
        alone = active[:, person] & (active.sum(1) == 1)
        return self._vector(begin, alone if alone.sum() >= FEW else active[:, person])

    # How

    def _take_in(self) -> None:
        count = len(self._incoming)
        if not count:
            return
        self._sound = np.concatenate([self._sound, *(samples for samples, _ in self._incoming)])
        self._speech = np.concatenate([self._speech, [speech for _, speech in self._incoming]])
        self._incoming.clear()
        rows = ((0, count), (0, 0))
        self._active, self._scores = np.pad(self._active, rows), np.pad(self._scores, rows)
        self._seen, self._several = np.pad(self._seen, (0, count)), np.pad(self._several, (0, count))
        over = len(self._speech) - self._kept
        if over > 0:
            self._from += over
            self._sound = self._sound[over * FRAME_SAMPLES :]
            self._speech, self._seen = self._speech[over:], self._seen[over:]
            self._active, self._scores = self._active[over:], self._scores[over:]
            self._several = self._several[over:]
            self._features = {b: f for b, f in self._features.items() if (b + 1) * BLOCK > self._from}

    def _window(self, final: bool) -> None:
        begin = max(self._from, self._origin, self.now - WINDOW)
        probs_FK, active_FK = activity(self._sound[(begin - self._from) * FRAME_SAMPLES :])
        self._hear(begin, final)
        found = [k for k in range(active_FK.shape[1]) if active_FK[:, k].sum() >= LEAST]
        past = max(0, self.decided - begin)
        known_FP = self._active[begin - self._from :][:past]
        local = []
        for k in found:
            alone_F = active_FK[:, k] & (active_FK.sum(1) == 1)
            voice = self._vector(begin, alone_F if alone_F.sum() >= FEW else active_FK[:, k])
            shared = active_FK[:past, k] @ known_FP.astype(np.float64)
            continues = shared / max(25, active_FK[:past, k].sum())
            local.append(LocalSpeaker(voice, float(alone_F.sum() * FRAME_MS / 1000), continues))
        found, local, probs_FK = self._unsplit(begin, found, local, probs_FK, active_FK)
        if self._listener:
            self._listener(local)
        joined = len(self.clusters.joined)
        people = self.clusters.assign(local)
        missing = len(self.clusters) - self._active.shape[1]
        if missing:
            columns = ((0, 0), (0, missing))
            self._active, self._scores = np.pad(self._active, columns), np.pad(self._scores, columns)
        if len(self.clusters.joined) > joined:
            for later, earlier in self.clusters.joined.items():
                for table in (self._active, self._scores):
                    table[:, earlier] = np.maximum(table[:, earlier], table[:, later])
                    table[:, later] = 0
        fresh = min(self.now - self._settled, len(probs_FK))
        rows = probs_FK[len(probs_FK) - fresh :]
        target = slice(len(self._seen) - fresh, None)
        self._seen[target] += 1
        self._several[target] += active_FK[len(probs_FK) - fresh :].sum(1) > 1
        for person in {p for p in people if p is not None}:
            mine = [k for k, p in zip(found, people, strict=True) if p == person]
            self._scores[target, person] += rows[:, mine].max(1)

    def _unsplit(
        self,
        begin: int,
        found: list[int],
        local: list[LocalSpeaker],
        probs_FK: NDArray[np.float32],
        active_FK: NDArray[np.bool_],
    ) -> tuple[list[int], list[LocalSpeaker], NDArray[np.float32]]:
        """Make one of two local speakers that sound alike and hardly ever speak at once."""
        while len(found) > 1:
            pairs = [
                (float(local[i].vector @ local[j].vector), i, j)  # type: ignore[operator]
                for i in range(len(found))
                for j in range(i + 1, len(found))
                if local[i].vector is not None
                and local[j].vector is not None
                and min(local[i].alone_s, local[j].alone_s) >= SAME_S
                and (active_FK[:, found[i]] & active_FK[:, found[j]]).sum()
                < 0.3 * min(active_FK[:, found[i]].sum(), active_FK[:, found[j]].sum())
            ]
            if not pairs or max(pairs)[0] <= SAME:
                break
            _, i, j = max(pairs)
            one, other = found[i], found[j]
            probs_FK = probs_FK.copy()
            probs_FK[:, one] = np.maximum(probs_FK[:, one], probs_FK[:, other])
            active_FK[:, one] |= active_FK[:, other]
            active_FK[:, other] = False
            alone_F = active_FK[:, one] & (active_FK.sum(1) == 1)
            continues = np.maximum(local[i].continues_P, local[j].continues_P)
            local[i] = LocalSpeaker(
                self._vector(begin, alone_F), float(alone_F.sum() * FRAME_MS / 1000), continues
            )
            del found[j], local[j]
        return found, local, probs_FK

    def _hear(self, begin: int, final: bool) -> None:
        """Run the voice model over the blocks that are complete; over the begun one where all ends here."""
        for block in range(begin // BLOCK, self.now // BLOCK):
            if block not in self._features or (final and self._features[block] is None):
                self._features[block] = self._block(block, BLOCK)
        rest = self.now % BLOCK // FEATURE_FRAMES * FEATURE_FRAMES
        self._begun = (self.now // BLOCK, self._block(self.now // BLOCK, rest) if final and rest >= FEW else None)

    def _block(self, block: int, frames: int) -> FeaturesTD | None:
        first = block * BLOCK - self._from
        if first < 0 or not self._speech[first : first + frames].any():
            return None
        start, end = first * FRAME_SAMPLES - BEFORE, (first + frames) * FRAME_SAMPLES
        return frame_features(np.pad(self._sound[max(0, start) : end], (max(0, -start), 0)))

    def _vector(self, begin: int, chosen_F: NDArray[np.bool_]) -> VectorD | None:
        """Of the chosen frames from `begin` on, as far as their blocks have been heard."""
        frames = begin + np.flatnonzero(chosen_F)
        rows, weights = [], []
        for block in np.unique(frames // BLOCK).tolist():
            features = self._features.get(block)
            if features is None and block == self._begun[0]:
                features = self._begun[1]
            if features is None:
                continue
            places = (frames[frames // BLOCK == block] - block * BLOCK) // FEATURE_FRAMES
            counts = np.bincount(places, minlength=len(features))[: len(features)]
            rows.append(features)
            weights.append(counts.astype(np.float32))
        if not rows or sum(float(w.sum()) for w in weights) < LEAST:
            return None
        return vector(np.concatenate(rows), np.concatenate(weights))
