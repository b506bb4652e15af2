"""bcaf-train from a corpus's published layout to scores, with the paper's configurations on tiny encoders."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel, Wav2Vec2Config, Wav2Vec2Model

from bcaf_stream.emotion_model import EmotionEngine, ModelConfig
from bcaf_stream.errors import DataError
from bcaf_stream.model.checkpoint import load_checkpoint
from tests.unit.training.made import iemocap_folder, meld_folder, records, write_jsonl
from training.cli import app

ROOT = Path(__file__).parents[2]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "oh", "my", "god", "it", "is", "fine", "It", "."]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")  # Ray warns of its own settings


def train(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """The paper's architectures in miniature, with random weights: folders as the model hub has them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders")
    Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(8,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="group",
        )
    ).save_pretrained(folder / "wav2vec2")
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=34, **shape, **ids)
    RobertaModel(config).save_pretrained(folder / "roberta")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder / "roberta")
    return folder


def settings(encoders: Path, manifest: Path, out: Path, *more: str) -> list[str]:
    """The paper's configuration on what is small enough for a test."""
    changes = [
        f"data.manifest={manifest}",
        f"out={out}",
        f"encoders.audio.model={encoders}/wav2vec2",
        f"encoders.text.model={encoders}/roberta",
        "model.audio_width=16",
        "model.text_width=16",
        "model.width=16",
        "model.latent=8",
        "model.feed_forward=32",
        "loop.epochs=2",
        "ray.use_gpu=false",
        "ray.num_workers=0",
        "features.shard=8",
        "features.workers=[0, 0]",  # the pool on Ray has a test of its own
        *more,
    ]
    return [word for change in changes for word in ("--set", change)]


def test_meld_from_its_folders_to_scores(encoders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = meld_folder(tmp_path / "MELD.Raw")
    (root / "train_splits" / "dia0_utt1.mp4").unlink()
    train("prepare", "meld", "--root", root, "--out", "meld")
    said = capsys.readouterr()
    assert "36 utterances, audio and text" in said.out
    assert "1 clips missing" in said.err

    paper = ROOT / "configs" / "train" / "meld_paper.yaml"
    options = settings(encoders, tmp_path / "meld", tmp_path / "run", "model.mode=causal")
    train("features", paper, *options)
    assert "audio: 35 vectors, 35 of them computed now" in capsys.readouterr().out
    train("features", paper, *options)
    assert "audio: 35 vectors, 0 of them computed now" in capsys.readouterr().out
    train("fit", paper, *options)
    assert "epoch   2" in capsys.readouterr().out

    run = tmp_path / "run" / "checkpoint"
    train("evaluate", run, "--manifest", "meld", "--json", "batch.json", "--card", "--predictions", "p.jsonl")
    train("evaluate", run, "--manifest", "meld", "--json", "live.json", "--through", "analyzer")
    batch, live = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("batch", "live"))
    assert set(batch) == {"causal", "offline", "linear"}
    assert live["linear"] == batch["linear"]  # the floor is the same whichever way the model goes
    assert set(batch.pop("linear")) == {"both", "text", "audio"}
    each = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(each) == sum(numbers["n"] for views in batch.values() for numbers in views.values())
    assert set(batch["causal"]) == {"both", "text", "audio"}
    wanted = {"weighted_f1", "macro_f1", "unweighted_recall", "ece", "per_class", "n", "ci95"}
    for view, numbers in live["causal"].items():
        assert wanted <= set(numbers)
        assert numbers["confusion"] == batch["causal"][view]["confusion"]
        assert numbers["ece"] == pytest.approx(batch["causal"][view]["ece"], abs=1e-4)
    assert (tmp_path / "evaluation" / "confusion_causal_both.png").stat().st_size > 5000
    card = (run / "README.md").read_text()
    assert "### test, linear floor" in card
    assert card.count("## Test results") == 1
    assert "GPL-3.0" in card
    engine = EmotionEngine(ModelConfig(checkpoint=str(run)))  # as analyze and serve load it
    assert engine.labels == load_checkpoint(run).labels


def test_iemocap_from_its_folders_to_scores(encoders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = iemocap_folder(tmp_path / "IEMOCAP", dialogues=4)
    train("prepare", "iemocap", "--root", root, "--out", "iemocap")
    assert "test is Session 5" in capsys.readouterr().out
    paper = ROOT / "configs" / "train" / "iemocap_paper.yaml"
    options = settings(encoders, tmp_path / "iemocap", tmp_path / "run")
    train("features", paper, *options)
    train("fit", paper, *options)
    train("evaluate", tmp_path / "run" / "checkpoint", "--manifest", "iemocap", "--json", "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["offline"]["both"]["n"] == 24
    assert "trained for offline context" in capsys.readouterr().out


def test_a_checkpoint_that_brings_its_encoders_needs_no_features_beforehand(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [
        {k: v for k, v in row.items() if "vector" not in k} for row in records({"train": 2, "dev": 1, "test": 2})
    ]
    write_jsonl(tmp_path / "corpus" / "manifest.jsonl", [{**row, "label": "joy", "text": "oh"} for row in rows])
    train("prepare", "manifest", "--root", "corpus", "--out", "made")
    train("evaluate", tiny, "--manifest", "made", "--json", "scores.json")
    assert set(json.loads((tmp_path / "scores.json").read_text())["causal"]) == {"text"}
    assert list((tmp_path / "made" / "features").glob("text-*/part-*.parquet"))


def test_a_finished_checkpoint_is_scored_on_a_test_set_with_other_names(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [
        {"split": "Test1", "call": call, "utterance": "0", "text": "oh", "label": label}
        for call, label in enumerate(("H", "H", "X", "S"))
    ]
    write_jsonl(tmp_path / "mine.jsonl", lines)
    names = ("--label", "H=joy", "--label", "S=sadness", "--label", "X=", "--split", "Test1=test")
    train("prepare", "manifest", "--root", "mine.jsonl", "--out", "made", *names)
    assert "2 splits without a labelled utterance" in capsys.readouterr().err
    train("evaluate", tiny, "--manifest", "made", "--json", "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["causal"]["text"]["n"] == 3
    with pytest.raises(DataError, match="its dev split has no labelled utterance"):
        train("evaluate", tiny, "--manifest", "made", "--split", "dev")


def run_cli(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, check=False)


def test_errors_are_one_line_with_their_exit_code(tmp_path):
    wrong_usage = run_cli("fit", tmp_path / "none.yaml")
    assert wrong_usage.returncode == 2
    assert wrong_usage.stderr == f"bcaf-train: {tmp_path}/none.yaml: no such configuration file\n"
    failed = run_cli("prepare", "meld", "--root", tmp_path, "--out", tmp_path / "out")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "no such table" in failed.stderr
    assert not (tmp_path / "out").exists()


def test_help_does_not_load_torch():
    code = "import sys; import training.cli; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)


def test_own_vectors_as_the_shipped_configuration_has_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for row in records({"train": 6, "dev": 3, "test": 3}):
        vectors = {"audio_vector": rng.normal(size=88).tolist(), "text_vector": rng.normal(size=384).tolist()}
        rows.append({**row, **vectors, "label": {"calm": "neutral", "cross": "angry"}[row["label"]]})
    write_jsonl(tmp_path / "corpus" / "manifest.jsonl", rows)
    names = ("--vectors", "audio=egemaps", "--vectors", "text=minilm")
    train("prepare", "manifest", "--root", "corpus", "--out", "data/mine", "--licence", "mine", *names)
    train("fit", ROOT / "configs" / "train" / "own_vectors.yaml", "--set", "loop.epochs=1")
    train("evaluate", "runs/mine/checkpoint", "--manifest", "data/mine")
    card = (tmp_path / "runs" / "mine" / "checkpoint" / "README.md").read_text()
    assert "precomputed `egemaps`, 88-d" in card
    assert "Licence of the data: mine" in card
