"""Which encoder the configuration asks for, built."""

from pathlib import Path

from bcaf_stream.encoders.base import AudioEncoder, AudioEncoderConfig, TextEncoder, TextEncoderConfig
from bcaf_stream.errors import EncoderError


def load_audio_encoder(config: AudioEncoderConfig, checkpoint_folder: Path | str | None = None) -> AudioEncoder:
    """Build the audio encoder that `config` asks for; a compact one comes from `<checkpoint_folder>/encoders`.

    Raises:
        EncoderError: weights that are missing, broken, of another kind, or out of reach.
    """
    # Imported when chosen: transformers alone takes seconds to import.
    if config.kind == "compact":
        from bcaf_stream.encoders.compact_audio import CompactAudioEncoder

        return CompactAudioEncoder.load(_encoder_folder(checkpoint_folder, "audio"), config)
    from bcaf_stream.encoders.pretrained import PretrainedAudioEncoder

    return PretrainedAudioEncoder(config)


def load_text_encoder(config: TextEncoderConfig, checkpoint_folder: Path | str | None = None) -> TextEncoder:
    """Build the text encoder that `config` asks for; a compact one comes from `<checkpoint_folder>/encoders`.

    Raises:
        EncoderError: weights that are missing, broken, of another kind, or out of reach.
    """
    if config.kind == "compact":
        from bcaf_stream.encoders.compact_text import CompactTextEncoder

        return CompactTextEncoder.load(_encoder_folder(checkpoint_folder, "text"), config)
    from bcaf_stream.encoders.pretrained import PretrainedTextEncoder

    return PretrainedTextEncoder(config)


def _encoder_folder(checkpoint_folder: Path | str | None, modality: str) -> Path:
    if checkpoint_folder is None:
        raise EncoderError(f"the compact {modality} encoder lives in a checkpoint folder, and none was given")
    folder = Path(checkpoint_folder) / "encoders" / modality
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"{folder}: no compact {modality} encoder here; give a checkpoint with one, or kind: pretrained"
        )
    return folder
