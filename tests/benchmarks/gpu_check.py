"""What a GPU does for this project: `python -m tests.benchmarks.gpu_check [--json FILE]`, in at most 8 minutes.

Prints one JSON object. Where there is no GPU it says so and ends with exit code 0; `--rehearse` runs the same
parts on the CPU with small networks, for those who prepare the day when there is one. It needs no Ray; the part
with an EmotionActor is left out, and that is said, where Ray is not installed.

A part that fails says why and the others go on; exit code 1 then, and where two numbers that must agree do not.
Weights are random: equality and speed are looked at, not emotions.
"""

import argparse
import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel, Wav2Vec2Config, Wav2Vec2Model

from bcaf_stream.dialogue import DialogueAnalyzer
from bcaf_stream.encoders.base import AudioEncoder, AudioEncoderConfig, DType, TextEncoder, TextEncoderConfig
from bcaf_stream.encoders.load import load_audio_encoder, load_text_encoder
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import EncoderSpec, EncoderSpecs, load_checkpoint, save_checkpoint
from bcaf_stream.model.config import BCAFConfig
from bcaf_stream.types import Features

BUDGET_S = 440.0  # no part begins later
FIT_S = 120
LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
RATE = 16_000
WORDS = [f"word{i}" for i in range(500)]
FP32 = 1e-4  # greatest difference of a number; what bf16 makes of it is said, and no fault


@dataclass(frozen=True)
class Size:
    """Of the networks and of the work."""

    audio: dict[str, Any]
    text: dict[str, Any]
    model: BCAFConfig
    utterances: int
    dialogues: int
    fit_calls: int


LARGE = Size(
    # wav2vec 2.0 large (LV60) and RoBERTa-large
    {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    | {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    BCAFConfig(labels=LABELS),
    256,
    1000,
    120,
)
SMALL = Size(
    {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    | {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True, "conv_dim": (32,) * 7},
    {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 128},
    BCAFConfig(
        labels=LABELS,
        audio_width=64,
        text_width=64,
        width=32,
        latent=16,
        layers=2,
        heads=2,
        feed_forward=64,
        context=8,
    ),
    16,
    20,
    12,
)


class Check:
    """The parts, on one device; `folder` holds what they write."""

    def __init__(self, device: str, size: Size, folder: Path) -> None:
        self.device, self.size, self.folder = device, size, folder
        self._rng = np.random.default_rng(0)
        torch.manual_seed(0)
        _write_encoders(folder, size)
        specs = EncoderSpecs(
            audio=EncoderSpec(kind="random", name="random", width=size.model.audio_width),
            text=EncoderSpec(kind="random", name="random", width=size.model.text_width),
        )
        self.checkpoint = save_checkpoint(folder / "checkpoint", BCAF(size.model).eval(), encoders=specs)

    def encoders_equal(self) -> dict[str, Any]:
        """GPU and CPU in fp32, number by number; bf16 beside them, as the cosine of the vectors."""
        waves, texts = self._utterances(6)
        found: dict[str, Any] = {}
        for name in ("audio", "text"):
            given: Any = waves if name == "audio" else texts
            cpu, gpu, bf16 = (
                self._encoder(name, device, dtype).encode(given)
                for device, dtype in (("cpu", "float32"), (self.device, "float32"), (self.device, "bfloat16"))
            )
            found[name] = {
                "fp32_greatest_difference": float(np.abs(cpu - gpu).max()),
                "bf16_greatest_difference": float(np.abs(cpu - bf16).max()),
                "bf16_least_cosine": float(_cosine(cpu, bf16).min()),
            }
            _require(found[name]["fp32_greatest_difference"] <= FP32, f"{name}: fp32 differs by more than {FP32}")
        return found

    def step_equal(self) -> dict[str, Any]:
        """Dialogues of other lengths stepped together on the GPU, and each alone on the CPU."""
        there = DialogueAnalyzer(load_checkpoint(self.checkpoint), self.device)
        here = DialogueAnalyzer(load_checkpoint(self.checkpoint), "cpu")
        worst = 0.0
        states = [there.initial() for _ in range(8)]
        alone = [here.initial() for _ in range(8)]
        for turn in range(12):
            talking = [n for n in range(8) if (turn + n) % 3]
            features = [self._features() for _ in talking]
            predictions, after = there.step_batch([states[n] for n in talking], features)
            for n, one, prediction, state in zip(talking, features, predictions, after, strict=True):
                expected, alone[n] = here.step(alone[n], one)
                states[n] = state
                worst = max(worst, float(np.abs(np.subtract(expected.probs, prediction.probs)).max()))
        _require(worst <= FP32, f"step differs by {worst:g}")
        return {"greatest_difference_of_probabilities": worst}

    def dialogues(self) -> dict[str, Any]:
        """What a thousand dialogues take, and a step of all of them at once, states sent both ways."""
        analyzer = DialogueAnalyzer(load_checkpoint(self.checkpoint), self.device)
        count = self.size.dialogues
        state = analyzer.initial()
        mb = state.cache_BKW.numel() * state.cache_BKW.element_size() / 1e6
        found: dict[str, Any] = {"megabytes_per_1000_dialogues": round(1000 * mb, 1)}
        self._reset_peak()
        for batch in (1, 16, 64, min(256, count)):
            states, features = [analyzer.initial()] * batch, [self._features() for _ in range(batch)]
            seconds = self._seconds(lambda s=states, f=features: analyzer.step_batch(s, f), 5)  # type: ignore[misc]
            found[f"steps_per_second_batch_{batch}"] = round(batch / seconds, 1)
        return found | self._peak()

    def throughput(self) -> dict[str, Any]:
        """Seconds of sound with its words encoded per second: ours, batch 1, and batches as they come, padded."""
        waves, texts = self._utterances(self.size.utterances)
        audio_s = sum(map(len, waves)) / RATE
        dtype: DType = "bfloat16"
        found: dict[str, Any] = {"utterances": len(waves), "audio_seconds": round(audio_s, 1), "dtype": dtype}
        self._reset_peak()
        ours = self._encoder("audio", self.device, dtype, 64), self._encoder("text", self.device, dtype, 64)
        seconds = self._seconds(lambda: (ours[0].encode(waves), ours[1].encode(texts)), 2)
        found["ours_audio_s_per_s"] = round(audio_s / seconds, 1)
        found |= self._peak()
        plain = _Plain(self.folder, self.device)
        few = min(len(waves), 64)
        few_s = sum(map(len, waves[:few])) / RATE
        for name, batch in (("plain_batch_1", 1), ("plain_padded_batch_16", 16)):
            seconds = self._seconds(lambda b=batch: plain.encode(waves[:few], texts[:few], b), 1)  # type: ignore[misc]
            found[f"{name}_audio_s_per_s"] = round(few_s / seconds, 1)
            found[f"times_{name}"] = round(found["ours_audio_s_per_s"] / found[f"{name}_audio_s_per_s"], 2)
        return found

    def actor(self) -> dict[str, Any]:
        """One EmotionActor with a GPU, the shipped checkpoint, and 64 calls that speak without a pause."""
        if importlib.util.find_spec("ray") is None:
            return {"skipped": "Ray is not installed here"}
        return asyncio.run(self._calls_on_an_actor(64, 6))

    async def _calls_on_an_actor(self, calls: int, each: int) -> dict[str, Any]:
        import ray

        from actors.batching import BatchConfig
        from actors.emotion_actor import EmotionActor, Request
        from bcaf_stream.emotion_model import ModelConfig
        from bcaf_stream.types import Utterance

        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            options = {"num_cpus": 1, "num_gpus": int(self.device == "cuda"), "max_concurrency": 1000}
            actor = (
                ray.remote(EmotionActor).options(**options).remote(ModelConfig(device=self.device), BatchConfig())
            )
            await actor.ready.remote(True)
            waves, texts = self._utterances(calls * each)
            taken: list[float] = []

            async def talk(call: int) -> None:
                state = None
                for u in range(each):
                    n = call * each + u
                    heard = len(waves[n]) * 1000 // RATE
                    utterance = Utterance(
                        call=f"c{call}",
                        channel="customer",
                        role="customer",
                        index=u,
                        start_ms=9000 * u,
                        end_ms=9000 * u + heard,
                        samples=waves[n],
                        text=texts[n],
                        text_source="given",
                    )
                    began = time.perf_counter()
                    state = (await actor.predict.remote(Request(state, utterance))).state
                    taken.append(time.perf_counter() - began)

            await talk(0)
            taken.clear()
            began = time.perf_counter()
            await asyncio.gather(*(talk(call) for call in range(calls)))
            seconds = time.perf_counter() - began
        finally:
            ray.shutdown()
        p50, p95 = (float(np.percentile(taken, p)) for p in (50, 95))
        return {
            "calls": calls,
            "utterances_per_second": round(len(taken) / seconds, 1),
            "audio_s_per_s": round(sum(map(len, waves)) / RATE / seconds, 1),
            "p50_ms": round(1000 * p50, 1),
            "p95_ms": round(1000 * p95, 1),
        }

    def fit(self) -> dict[str, Any]:
        """One epoch of `bcaf-train fit` on random vectors of the model's widths: bf16 on a GPU."""
        config = self.size.model
        rows = []
        for call in range(self.size.fit_calls):
            split = ("dev", "test")[call % 2] if call % 10 > 7 else "train"
            for u in range(12):
                made = self._features()
                assert made.audio is not None
                assert made.text is not None
                rows.append(
                    {"split": split, "call": f"c{call}", "utterance": f"c{call}-{u}", "channel": "customer"}
                    | {"start_ms": 1000 * u, "end_ms": 1000 * u + 900, "label": LABELS[(call + u) % 7]}
                    | {"audio_vector": made.audio.tolist(), "text_vector": made.text.tolist()}
                )
        manifest = self.folder / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        shape = config.model_dump(mode="json", include={"labels", "audio_width", "text_width", "width", "latent"})
        shape |= config.model_dump(include={"layers", "heads", "feed_forward", "context"})
        yaml = self.folder / "fit.yaml"
        yaml.write_text(
            json.dumps(
                {
                    "name": "gpu",
                    "out": str(self.folder / "run"),
                    "data": {"manifest": str(self.folder / "corpus")},
                    "model": shape,
                    "loop": {"epochs": 1, "batch": 16},
                }
            )  # which is YAML too
        )
        began = time.perf_counter()
        prepare = ["prepare", "manifest", "--root", str(manifest), "--out", str(self.folder / "corpus")]
        prepare += ["--vectors", "audio=random", "--vectors", "text=random"]
        for arguments in (prepare, ["fit", str(yaml)]):
            command = [sys.executable, "-m", "training.cli", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=FIT_S, check=False)
            _require(done.returncode == 0, f"bcaf-train {arguments[0]}: {(done.stderr or done.stdout)[-300:]}")
        return {"utterances": len(rows), "seconds_with_start": round(time.perf_counter() - began, 1)}

    def _encoder(self, name: str, device: str, dtype: DType, batch: int = 16) -> Any:
        where: dict[str, Any] = {"kind": "pretrained", "model": str(self.folder / name), "device": device}
        where |= {"dtype": dtype, "batch": batch}
        encoder: AudioEncoder | TextEncoder = (
            load_audio_encoder(AudioEncoderConfig(**where))
            if name == "audio"
            else load_text_encoder(TextEncoderConfig(**where))
        )
        return encoder

    def _utterances(self, count: int) -> tuple[list[NDArray[np.int16]], list[str]]:
        """Of one to eight seconds, with two words a second: as people speak, not all alike."""
        seconds = self._rng.gamma(3.0, 1.0, count).clip(1.0, 8.0)
        waves = [(self._rng.standard_normal(int(s * RATE)) * 3000).astype(np.int16) for s in seconds]
        texts = [" ".join(self._rng.choice(WORDS, max(1, int(2 * s)))) for s in seconds]
        return waves, texts

    def _features(self) -> Features:
        widths = self.size.model.audio_width, self.size.model.text_width
        audio, text = (self._rng.standard_normal(width).astype(np.float32) for width in widths)
        return Features(audio, text, "customer")

    def _seconds(self, work: Callable[[], object], repeats: int) -> float:
        work()  # kernels are chosen and memory is taken at the first
        self._wait()
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        self._wait()
        return (time.perf_counter() - began) / repeats

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _reset_peak(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> dict[str, Any]:
        if self.device != "cuda":
            return {}
        return {"peak_gpu_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 2)}


class _Plain:
    """What somebody writes in ten lines with transformers: utterances in the order in which they come."""

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._audio = Wav2Vec2Model.from_pretrained(folder / "audio", dtype=torch.bfloat16).to(device).eval()
        self._text = RobertaModel.from_pretrained(folder / "text", dtype=torch.bfloat16).to(device).eval()
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "text")

    @torch.inference_mode()
    def encode(self, waves: Sequence[NDArray[np.int16]], texts: Sequence[str], batch: int) -> None:
        for at in range(0, len(waves), batch):
            tensors = [torch.from_numpy(wave.astype(np.float32) / 32768) for wave in waves[at : at + batch]]
            padded_BN = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)
            mask_BN = torch.nn.utils.rnn.pad_sequence([torch.ones(len(x)) for x in tensors], batch_first=True)
            self._audio(
                padded_BN.to(self._device, torch.bfloat16), attention_mask=mask_BN.to(self._device).long()
            ).last_hidden_state.mean(1).float().cpu()
            tokens = self._tokenizer(list(texts[at : at + batch]), padding=True, return_tensors="pt")
            self._text(
                tokens["input_ids"].to(self._device), attention_mask=tokens["attention_mask"].to(self._device)
            ).last_hidden_state.mean(1).float().cpu()


def _write_encoders(folder: Path, size: Size) -> None:
    Wav2Vec2Model(Wav2Vec2Config(**size.audio)).save_pretrained(folder / "audio")
    (folder / "audio" / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True})
    )
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {word: n for n, word in enumerate([*marks, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(folder / "text")
    config = RobertaConfig(vocab_size=len(vocabulary), max_position_embeddings=514, **size.text)
    RobertaModel(config).save_pretrained(folder / "text")


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise AssertionError(otherwise)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--only", action="append", help="this part; repeatable")
    parser.add_argument("--rehearse", action="store_true", help="small networks, on the CPU")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.rehearse:
        return _say({"skipped": "there is no GPU here: nothing was measured"}, given.json, 0)
    device = "cpu" if given.rehearse else "cuda"
    what = {"device": device if given.rehearse else torch.cuda.get_device_name(), "rehearsal": given.rehearse}
    result: dict[str, Any] = {**what, "torch": torch.__version__}
    began, failed = time.perf_counter(), 0
    with TemporaryDirectory(prefix="bcaf-gpu-") as folder:
        check = Check(device, SMALL if given.rehearse else LARGE, Path(folder))
        parts = (check.encoders_equal, check.step_equal, check.throughput, check.dialogues, check.fit, check.actor)
        for part in parts:
            name = part.__name__
            if given.only and name not in given.only:
                continue
            if time.perf_counter() - began > BUDGET_S:
                result[name] = {"skipped": f"no time was left of {BUDGET_S:g} s"}
                continue
            at = time.perf_counter()
            try:
                result[name] = part()
            except Exception as error:  # the others are worth knowing all the same
                failed += 1
                result[name] = {"failed": f"{type(error).__name__}: {str(error)[-300:]}"}
            result[name]["seconds"] = round(time.perf_counter() - at, 1)
            print(f"{name}: {result[name]}", file=sys.stderr, flush=True)
    result["seconds"] = round(time.perf_counter() - began, 1)
    return _say(result, given.json, 1 if failed else 0)


def _say(result: dict[str, Any], file: Path | None, code: int) -> int:
    print(json.dumps(result))
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
