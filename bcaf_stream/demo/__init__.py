"""The call that ships with the project: made with a TTS by `make_call.py`, nobody's recording."""

from pathlib import Path

CALL = Path(__file__).parent / "call.wav"
SCRIPT = Path(__file__).parent / "script.jsonl"
