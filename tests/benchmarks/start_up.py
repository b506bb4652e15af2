"""What `analyze` of ten seconds of sound costs, most of which is starting: CPU seconds and memory of the process.

    python -m tests.benchmarks.start_up [ROUNDS]

CPU time counts every thread; on a machine that is busy with other work it grows too: the least of the rounds is
told.
"""

import os
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from bcaf_stream.demo import CALL
from bcaf_stream.recording import Recording

SECONDS = 10


def beginning(folder: Path) -> Path:
    """The first seconds of the demo call as a file."""
    path = folder / "ten.wav"
    with Recording.open(str(CALL)).chunks() as source, wave.open(str(path), "wb") as out:
        columns: dict[str, list[np.ndarray]] = {channel.name: [] for channel in source.channels}
        for chunk in source:
            columns[chunk.channel].append(chunk.samples)
            rate = chunk.rate
        sound_NC = np.stack([np.concatenate(parts)[: SECONDS * rate] for parts in columns.values()], axis=1)
        out.setnchannels(len(columns))
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(sound_NC.astype("<i2").tobytes())
    return path


def cost(*words: str) -> tuple[float, float]:
    """CPU seconds and the most resident memory (MB) of one run of the command."""
    command = [sys.executable, "-m", "bcaf_stream.cli.main", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        call = str(beginning(Path(folder)))
        for text in ("asr", "none"):
            costs = [cost("analyze", call, "--text", text) for _ in range(rounds)]
            cpu, memory = (min(column) for column in zip(*costs, strict=True))
            print(f"analyze, {SECONDS} s of sound, --text {text}: {cpu:.1f} s of CPU, {memory:.0f} MB")


if __name__ == "__main__":
    main()
