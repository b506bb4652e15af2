"""Which recogniser runs: the embedded Moonshine, or any Whisper that transformers loads."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.transcripts.transcriber import Transcriber


class AsrConfig(Config):
    """Which recogniser runs.

    `model` and `device` are Whisper's (a hub id or a local folder; nothing is downloaded unless a hub id is
    given here), `threads` Moonshine's: 1, or more for as many as the machine has. Whisper runs on torch's threads.
    """

    kind: Literal["moonshine", "whisper", "none"] = "moonshine"
    model: str | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    device: str = "cpu"

    @model_validator(mode="after")
    def _model_fits_kind(self) -> "AsrConfig":
        if self.kind == "whisper" and self.model is None:
            raise ValueError("kind: whisper needs a model: a hub id such as openai/whisper-tiny.en, or a folder")
        if self.kind != "whisper" and self.model is not None:
            raise ValueError(f"kind: {self.kind} takes no model: leave it out, or set kind: whisper")
        return self


def load_transcriber(config: AsrConfig) -> Transcriber | None:
    """Load the configured recogniser; None for `kind: none`.

    Raises:
        AsrError: it cannot be loaded here; the message says why, and how to go on without it.
    """
    # Imported here: neither the native library nor torch may be needed by a call that brings its words along.
    if config.kind == "moonshine":
        from bcaf_stream.transcripts.moonshine import MoonshineTranscriber

        return MoonshineTranscriber(config.threads)
    if config.kind == "whisper":
        from bcaf_stream.transcripts.whisper import WhisperTranscriber

        return WhisperTranscriber(str(config.model), config.device)
    return None
