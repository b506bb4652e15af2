"""Keeps as many emotion actors as their load asks for: carries out what `actors.scaling` decides.

A new one is asked when it is ready. One that goes is asked no more, and ends when it has had time to answer.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

from actors.scaling import PoolScaling, ScalingConfig

LEAVE_S = 10.0  # for the answers of one that goes
Stats = dict[str, dict[str, Any]]


class EmotionScaler:
    """Of the actors `names`, the first of which stay.

    Args:
        create, end: make and end an actor of a name; `create` raises DeploymentError.
    """

    def __init__(
        self, config: ScalingConfig, names: list[str], create: Callable[[str], None], end: Callable[[str], None]
    ) -> None:
        self._create, self._end = create, end
        self._scaling = PoolScaling(config)
        self._names = list(names)
        self._leaving: dict[str, float] = {}  # since when
        self.coming = set(names[config.min :])  # which are not ready yet: no reason to call the pool unhealthy
        self.reason = ""

    def look(self, stats: Stats, now_s: float) -> list[str]:
        """After each look at what the actors say of themselves; the names of those that are to be asked.

        Raises:
            DeploymentError: one more cannot be made.
        """
        self.coming -= {name for name in self.coming if stats.get(name, {}).get("ready")}
        for name, since_s in list(self._leaving.items()):
            if now_s - since_s > LEAVE_S:
                del self._leaving[name]
                self._end(name)
        busy = {name: stats.get(name, {}).get("busy_total_s") for name in self._names if name not in self.coming}
        lags = [its["lags_ms"]["emotion"] for its in stats.values() if "lags_ms" in its]
        if not self.coming:  # what they will do is not known yet
            wanted = self._scaling.look(busy, max(lags, default=0), now_s)
            self.reason = wanted.reason
            while len(self._names) > wanted.replicas:
                self._leaving[self._names.pop()] = now_s
            while len(self._names) < wanted.replicas:
                name = self._free_name()
                self._create(name)
                self._names.append(name)
                self.coming.add(name)
        asked = [name for name in self._names if name not in self.coming]
        return asked or self._names[:1]

    def _free_name(self) -> str:
        taken = {*self._names, *self._leaving}
        return next(name for name in (f"emotion-{i}" for i in count()) if name not in taken)
