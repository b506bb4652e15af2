"""What works here: packages, speech recognition, checkpoints, encoders, GPU, ports, and what to do about each."""

import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from bcaf_stream.emotion_model import ModelConfig, load_encoders
from bcaf_stream.errors import BcafError
from bcaf_stream.folders import ray_folder, why_home_is_no_use, why_ray_cannot_use
from bcaf_stream.model.checkpoint import SHIPPED, find_checkpoint, load_checkpoint
from bcaf_stream.transcripts.asr import AsrConfig, load_transcriber

PACKAGES = (
    *("ray", "torch", "torchaudio", "transformers", "webrtcvad-wheels", "silero-vad"),
    *("onnxruntime", "av", "pyzmq", "msgpack", "moonshine-voice"),
)
PORTS = {
    5560: "audio in (ingest.link.bind)",
    5561: "events out (hub.bus.bind)",
    5562: "past events (hub.replay.bind)",
}

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do where the state is not ok."""

    what: str
    state: State
    detail: str
    advice: str = ""


def examine() -> int:
    """Print the report; 1 when there is a problem, else 0."""
    table = Table(title="bcaf-stream doctor", title_justify="left")
    for column in ("what", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "note": "yellow", "problem": "bold red"}
    problems = 0
    for finding in findings():
        problems += finding.state == "problem"
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(finding.what, state, finding.detail, finding.advice)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
    return 1 if problems else 0


def findings() -> Iterator[Finding]:
    """Every check, in the order in which a newcomer would meet a problem."""
    yield Finding(
        "system", "ok", f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores"
    )
    for package in PACKAGES:
        yield _package(package)
    yield _gpu()
    yield _checked("speech recognition", _asr, "give --transcript FILE or --text none")
    for name in SHIPPED:
        advice = "install the package again: its weights are part of it"
        yield _checked(f"{name} checkpoint", partial(_shipped, name), advice)
    yield _hub()
    for port, use in PORTS.items():
        yield _port(port, use)
    yield _journal_folder()
    yield _ray_folder()
    yield _home()


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        advice = "run make setup" if name != "moonshine-voice" else "no embedded ASR here: use --transcript FILE"
        return Finding(name, "note" if name == "moonshine-voice" else "problem", "not installed", advice)


def _gpu() -> Finding:
    if not torch.cuda.is_available():
        return Finding("GPU", "note", "none that torch can use", "nothing: compact is made for the CPU")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", ", ".join(names), "serve on it with --set emotion.num_gpus=1")


def _checked(what: str, check: Callable[[], Finding], advice: str) -> Finding:
    try:
        return check()
    except BcafError as error:
        return Finding(what, "problem", str(error), advice)


def _asr() -> Finding:
    transcriber = load_transcriber(AsrConfig())
    if transcriber is None:
        return Finding("speech recognition", "note", "switched off")
    try:
        return Finding("speech recognition", "ok", transcriber.name)
    finally:
        transcriber.close()


def _shipped(name: str) -> Finding:
    checkpoint = load_checkpoint(find_checkpoint(name))
    encoders = load_encoders(checkpoint, ModelConfig(), "cpu")
    found = "; ".join(
        (checkpoint.model_id, *(f"{one.name} ({one.width}-d)" for one in encoders if one is not None))
    )
    if checkpoint.provisional:
        return Finding(f"{name} checkpoint", "note", found, "provisional weights: do not rely on them yet")
    return Finding(f"{name} checkpoint", "ok", found)


def _hub() -> Finding:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        advice = "only needed for hub ids: give `pretrained` encoders and Whisper as local folders"
        return Finding("model hub", "note", "cannot be reached", advice)
    return Finding("model hub", "ok", "reachable; nothing is fetched unless a configuration names a hub id")


def _port(port: int, use: str) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            key = use.partition("(")[2].rstrip(")")
            advice = f"bcaf-serve status, or choose another with --set {key}=tcp://127.0.0.1:PORT"
            return Finding(f"port {port}", "note", f"in use; meant for {use}", advice)
    return Finding(f"port {port}", "ok", f"free, for {use}")


def _journal_folder() -> Finding:
    folder = Path.cwd()
    if os.access(folder, os.W_OK):
        return Finding("working folder", "ok", "writable, for the journal and results")
    advice = "run from a folder of yours, or set hub.journal.path"
    return Finding("working folder", "problem", "not writable", advice)


def _ray_folder() -> Finding:
    folder, variable = ray_folder()
    problem = why_ray_cannot_use(folder, variable)
    if problem is None:
        return Finding("Ray's folder", "ok", folder)
    found, _, advice = problem.rpartition(": ")
    return Finding("Ray's folder", "problem", found, advice)


def _home() -> Finding:
    problem = why_home_is_no_use()
    if problem is None:
        return Finding("home folder", "ok", "writable, for Ray's token and models from a hub")
    advice = "nothing for a local Ray, whose token then stays in memory; a hub's models need HF_HOME"
    return Finding("home folder", "note", problem, advice)
