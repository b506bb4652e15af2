"""Evidence sound of the calls of one process: a thread encodes it, and deletes what was kept long enough."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bcaf_stream.errors import DeploymentError
from bcaf_stream.evidence import CallRecorder, RecordConfig, expire
from bcaf_stream.loops import faults
from bcaf_stream.types import Call

LOOK_S = 60.0  # how often old files are looked for


class SoundRecording:
    """Gives each call its recorder; `folder` is that of all calls, beside the journal."""

    def __init__(self, config: RecordConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sound")

    async def open(self) -> None:
        """Make the folder; raises DeploymentError where that cannot be done."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DeploymentError(
                f"ingest.record: {self._folder} cannot be made: {error.strerror}: nothing can be recorded"
            ) from None

    def of(self, call: Call) -> CallRecorder | None:
        """The call's recorder; None where it cannot be recorded, which is counted: it is analysed all the same."""
        try:
            return CallRecorder(self._folder, call, self._config.roles, self._thread.submit, _failed)
        except OSError as error:
            _failed(error)
            return None

    async def delete_old(self) -> None:
        """Delete for ever what is older than `keep_h`."""
        keep_s = self._config.keep_h * 3600
        while True:
            try:
                await self._do(lambda: expire(self._folder, time.time() - keep_s))
            except OSError as error:  # of the disk: the calls go on
                _failed(error)
            await asyncio.sleep(min(LOOK_S, keep_s / 10))

    async def drain(self) -> None:
        """Wait for what is not written yet."""
        await self._do(lambda: 0)

    async def _do(self, work: Callable[[], int]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _failed(error: Exception) -> None:
    faults.count("recording a call", error)
