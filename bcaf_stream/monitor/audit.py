"""Who looked at what: a file of JSON lines that only grows; what was acknowledged and muted is read from it."""

import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bcaf_stream.errors import UsageError

Action = Literal["view", "export", "search", "play", "acknowledge", "mute"]


class Audit:
    """Appends a line for each action, before it is allowed; no words of a call stand in it.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.acknowledged: dict[str, dict[str, Any]] = {}
        """Alert (its event's id) -> its line."""
        self.muted: dict[str, int] = {}
        """Rule -> until when, unix ns."""
        self.version = 0
        try:
            self._file = os.fdopen(
                os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+", encoding="utf-8"
            )
        except OSError as error:
            raise UsageError(f"audit {path}: cannot be written: {error.strerror}: name another file") from None
        for line in self._file:
            try:
                self._remember(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a line that a full disk cut short, or that somebody wrote by hand

    def add(self, action: Action, user: str, address: str, **what: object) -> dict[str, Any]:
        """Write a line; raises OSError when it cannot be written, and the action must not be done then."""
        now = time.time_ns()
        at = datetime.fromtimestamp(now // 10**9, UTC).isoformat()
        entry = {"at": at, "at_ns": str(now), "user": user, "address": address, "action": action, **what}
        with self._lock:
            self._file.write(json.dumps(entry, ensure_ascii=True) + "\n")
            self._file.flush()
            self._remember(entry)
        return entry

    def close(self) -> None:
        self._file.close()

    def _remember(self, entry: dict[str, Any]) -> None:
        if entry["action"] == "acknowledge":
            self.acknowledged[entry["alert"]] = entry
        elif entry["action"] == "mute":
            self.muted[entry["rule"]] = int(entry["until_ns"])
        else:
            return
        self.version += 1
