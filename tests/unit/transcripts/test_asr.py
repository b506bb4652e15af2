"""Both recognisers on real sound: Moonshine with its own weights, Whisper with small random ones."""

import os
import re
import sys
import threading

import av
import numpy as np
import pytest

import bcaf_stream.transcripts.moonshine as moonshine_module
from bcaf_stream.config import load_config
from bcaf_stream.demo import CALL, SCRIPT
from bcaf_stream.errors import AsrError, ConfigError
from bcaf_stream.transcripts.asr import AsrConfig, load_transcriber
from bcaf_stream.transcripts.moonshine import MoonshineTranscriber
from bcaf_stream.transcripts.sources import read_transcript
from bcaf_stream.transcripts.transcriber import (
    LONGEST,
    BatchTranscriber,
    Transcription,
    audible_pieces,
    believable,
    joined,
)
from tests.components import require


@pytest.fixture(scope="module")
def moonshine():
    try:
        transcriber = MoonshineTranscriber()
    except AsrError as error:
        require("moonshine", str(error))
    yield transcriber
    transcriber.close()


@pytest.fixture(scope="module")
def lines() -> list[tuple[str, np.ndarray]]:
    """The demo call's lines: text and sound at 16 kHz."""
    with av.open(str(CALL)) as container:
        resampler = av.AudioResampler(format="s16p", layout="stereo", rate=16_000)
        blocks = [f.to_ndarray() for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    sound = np.concatenate(blocks, axis=1)
    row = {"customer": 0, "agent": 1}
    return [
        (w.text, sound[row[str(w.channel)], max(0, w.start_ms - 200) * 16 : (w.end_ms + 200) * 16])
        for w in read_transcript(SCRIPT).words
    ]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_moonshine_hears_the_demo_call(moonshine, lines):
    found = total = 0
    for text, sound in lines[:4]:
        heard = words(moonshine.transcribe(sound).text)
        found += sum(word in heard for word in words(text))
        total += len(words(text))
    assert found / total > 0.9


def test_moonshine_says_the_same_again_whatever_came_between(moonshine, lines):
    sound = lines[3][1]
    first = moonshine.transcribe(sound)
    moonshine.transcribe(lines[2][1])
    assert moonshine.transcribe(sound) == first
    assert first.text


def test_moonshine_in_several_threads_does_not_mix_its_answers(moonshine, lines):
    sounds = [sound for _, sound in lines[2:5]]
    expected = [moonshine.transcribe(sound) for sound in sounds]
    got: list[Transcription | None] = [None] * 3

    def work(i: int) -> None:
        got[i] = moonshine.transcribe(sounds[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


@pytest.mark.parametrize("seconds", [0, 0.01, 0.1, 0.3, 1.0, 31.0])
def test_silence_and_short_noise_have_no_words(moonshine, seconds: float):
    count = int(seconds * 16_000)
    assert moonshine.transcribe(np.zeros(count, np.int16)).text == ""
    noise = np.random.default_rng(0).normal(scale=300, size=min(count, 16_000)).astype(np.int16)
    assert len(words(moonshine.transcribe(noise).text)) <= 3


def test_faint_speech_is_understood(moonshine, lines):
    text, sound = lines[2]
    heard = words(moonshine.transcribe((sound * 0.02).astype(np.int16)).text)
    assert sum(word in heard for word in words(text)) > 0.8 * len(words(text))


def test_moonshine_prints_nothing_and_leaves_the_environment_alone(capfd, lines):
    before = dict(os.environ)
    transcriber = load_transcriber(AsrConfig())
    assert transcriber is not None
    transcriber.transcribe(lines[3][1])
    transcriber.close()
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before
    with pytest.raises(AsrError, match="failed"):
        transcriber.transcribe(lines[3][1])


def test_without_the_package_the_message_says_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "moonshine_voice", None)
    with pytest.raises(AsrError, match=r"not installed.*let the call bring its words"):
        load_transcriber(AsrConfig())


def test_where_its_networks_do_not_load_the_message_says_so(monkeypatch, tmp_path):
    (tmp_path / "decoder_model_merged.ort").write_bytes(b"ORTM")
    monkeypatch.setattr(moonshine_module, "_folder", lambda: tmp_path)
    with pytest.raises(
        AsrError, match=r"cannot run here \(.*model verification failed.*let the call bring its words"
    ):
        load_transcriber(AsrConfig())


def test_confidence_is_high_for_speech_and_low_for_murmurs_and_other_languages(moonshine, lines):
    said = [moonshine.transcribe(sound).confidence for _, sound in lines[:4]]
    assert min(said) > 0.7
    backwards = [moonshine.transcribe(sound[::-1].copy()) for _, sound in lines[:4]]  # a voice without words
    assert max(heard.confidence for heard in backwards if heard.text) < 0.5
    assert moonshine.transcribe(np.zeros(16_000, np.int16)).confidence is None


def test_sound_of_several_pieces_has_the_confidence_of_its_words():
    pieces = iter([Transcription("one two three", 0.9), Transcription("You", 0.1), Transcription("four", 0.5)])
    sound = np.tile(np.array([1000, -1000], np.int16), 20 * 16_000)
    heard = joined(sound, lambda _: next(pieces, Transcription("", None)))
    assert heard.text == "one two three four"
    assert heard.confidence == pytest.approx((3 * 0.9 + 0.5) / 4)


def test_long_sound_is_cut_where_it_is_quiet():
    sound = np.full(40 * 16_000, 1000, np.int16)
    sound[12 * 16_000 : 12 * 16_000 + 400] = 0
    pieces = list(audible_pieces(sound))
    assert abs(len(pieces[0]) - 12 * 16_000) < 400
    assert max(map(len, pieces)) <= LONGEST
    assert np.array_equal(np.concatenate(pieces), sound)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("You", ""),
        (" Thank you for watching. ", ""),
        ("♪♪♪", ""),
        ("?", ""),
        ("You are late.", "You are late."),
        ("Thank you.", "Thank you."),
        ("No, no, no!", "No, no, no!"),
        ("Hello, hello, hello, hello, hello, hello. It's me.", "Hello. It's me."),
        ("The first is the first is the first is the first is the first is", ""),
        ("I am very happy to be able to speak with you. I am very happy to be able to speak with you.", ""),
        ("I want my money back. I want my money back.", "I want my money back. I want my money back."),
        ("I told you it was broken. That is the end is the end is the end is the end", None),
    ],
)
def test_what_models_invent_is_not_believed(said: str, kept: str | None):
    assert believable(said) == kept if kept is not None else len(believable(said)) < len(said)


def test_the_config_names_what_is_missing():
    assert load_transcriber(AsrConfig(kind="none")) is None
    with pytest.raises(ConfigError, match="kind: whisper needs a model"):
        load_config(AsrConfig, None, ["kind=whisper"])
    with pytest.raises(ConfigError, match="takes no model"):
        load_config(AsrConfig, None, ["model=somewhere"])


@pytest.fixture(scope="module")
def tiny_whisper(tmp_path_factory) -> str:
    """A Whisper with random weights that can only say letters, though its tokenizer knows every byte."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    torch.manual_seed(0)
    torch.set_num_threads(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = [*letters, *sorted(set(ByteLevel.alphabet()) - set(letters)), "<|endoftext|>"]
    tokenizer = WhisperTokenizer(vocab={c: i for i, c in enumerate(known)}, merges=[])
    end = len(known) - 1  # text stands before it, marks behind: so does faster-whisper tell them apart
    marks = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    marks += ["<|translate|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    size = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 16))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), end)
    ids |= {"decoder_start_token_id": end + 1}
    config = WhisperConfig(vocab_size=len(tokenizer), d_model=16, max_target_positions=448, **size, **heads, **ids)
    model = WhisperForConditionalGeneration(config)
    silent = [one for one in range(len(letters), len(tokenizer)) if one != end]
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight[silent] = 0  # also where nothing suppresses them
    model.generation_config.update(max_length=12, suppress_tokens=silent)
    folder = str(tmp_path_factory.mktemp("whisper"))
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def assert_hears_greedily(transcriber, lines, to_the_bit: bool = True) -> None:
    """One of random weights; it is closed then.

    CTranslate2 adds up as its threads are done: between letters that are equally likely, that decides.
    """
    assert transcriber is not None
    sound = lines[3][1]
    heard = transcriber.transcribe(sound)
    assert heard.text.strip()
    assert heard.confidence is not None
    assert 0 < heard.confidence < 0.5  # of 26 letters, by chance
    again = transcriber.transcribe(sound)
    assert again == heard if to_the_bit else again.text.strip()
    assert transcriber.transcribe(np.zeros(16_000, np.int16)).text == ""
    transcriber.close()


def test_any_whisper_folder_can_be_loaded_and_is_greedy(tiny_whisper, lines):
    transcriber = load_transcriber(AsrConfig(kind="whisper", model=tiny_whisper))
    assert_hears_greedily(transcriber, lines)


def test_whisper_hears_in_a_batch_what_it_hears_alone(tiny_whisper, lines):
    transcriber = load_transcriber(AsrConfig(kind="whisper", model=tiny_whisper))
    assert isinstance(transcriber, BatchTranscriber)
    silence, long = np.zeros(16_000, np.int16), np.concatenate([sound for _, sound in lines])[: 16_000 * 40]
    batch = [lines[3][1], silence, long, lines[0][1][:1000], lines[5][1]]
    together = transcriber.transcribe_all(batch)
    alone = [transcriber.transcribe(sound) for sound in batch]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.confidence for one in together] == [
        one.confidence if one.confidence is None else pytest.approx(one.confidence, rel=1e-4) for one in alone
    ]
    assert [bool(one.text) for one in alone] == [True, False, True, False, True]
    assert transcriber.transcribe_all([silence]) == [Transcription("")]
    transcriber.close()


@pytest.fixture(scope="module")
def tiny_faster_whisper(tiny_whisper, tmp_path_factory) -> str:
    """The same weights as faster-whisper has them."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ctranslate2.converters import TransformersConverter

        folder = tmp_path_factory.mktemp("converted") / "tiny"
        TransformersConverter(tiny_whisper, copy_files=["tokenizer.json"]).convert(str(folder))
    return str(folder)


def test_a_folder_of_faster_whisper_is_one_line_of_the_configuration(tiny_faster_whisper, lines):
    config = load_config(AsrConfig, None, ["kind=faster_whisper", f"model={tiny_faster_whisper}"])
    transcriber = load_transcriber(config)
    assert_hears_greedily(transcriber, lines, to_the_bit=False)


def test_a_folder_that_faster_whisper_cannot_load_is_refused(tmp_path, tiny_faster_whisper):
    with pytest.raises(AsrError, match=r"holds no model.bin; give a folder as faster-whisper publishes them"):
        load_transcriber(AsrConfig(kind="faster_whisper", model=str(tmp_path)))
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(AsrError, match=r"cannot be loaded on cpu by faster-whisper.*asr.kind: moonshine or none"):
        load_transcriber(AsrConfig(kind="faster_whisper", model=str(tmp_path)))


def test_a_folder_without_a_whisper_is_refused(tmp_path):
    with pytest.raises(AsrError, match=r"cannot be loaded on cpu as a Whisper model.*asr.kind: moonshine or none"):
        load_transcriber(AsrConfig(kind="whisper", model=str(tmp_path)))
