"""Which recogniser runs: the embedded Moonshine, or a Whisper, in torch or in CTranslate2."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bcaf_stream.config import Config
from bcaf_stream.transcripts.transcriber import Transcriber


class AsrConfig(Config):
    """Which recogniser runs.

    `model` and `device` are Whisper's (a hub id or a local folder; nothing is downloaded unless a hub id is
    given here): `whisper` is one that transformers loads and runs on torch's threads, `faster_whisper` one for
    CTranslate2. `threads` are Moonshine's (1, or more for as many as the machine has) and faster-whisper's.
    """

    kind: Literal["moonshine", "whisper", "faster_whisper", "none"] = "moonshine"
    model: str | None = None
    threads: Annotated[int, Field(ge=1)] = 1
    device: str = "cpu"

    @model_validator(mode="after")
    def _model_fits_kind(self) -> "AsrConfig":
        example = {"whisper": "openai/whisper-tiny.en", "faster_whisper": "Systran/faster-whisper-base.en"}
        if self.kind in example and self.model is None:
            raise ValueError(
                f"kind: {self.kind} needs a model: a hub id such as {example[self.kind]}, or a folder"
            )
        if self.kind not in example and self.model is not None:
            raise ValueError(
                f"kind: {self.kind} takes no model: leave it out, or set kind: {' or '.join(example)}"
            )
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
    if config.kind == "faster_whisper":
        from bcaf_stream.transcripts.faster_whisper import FasterWhisperTranscriber

        return FasterWhisperTranscriber(str(config.model), config.device, config.threads)
    return None
