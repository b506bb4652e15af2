"""Checkpoints: what is saved comes back, what is broken is refused in one line, and saving loses nothing."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bcaf_stream.errors import CheckpointError
from bcaf_stream.model.bcaf import BCAF
from bcaf_stream.model.checkpoint import EncoderSpec, load_checkpoint, save_checkpoint
from bcaf_stream.model.decision import Calibration, CaseWeights
from bcaf_stream.model.published import PublishedBCAF
from tests.unit.model.small import assert_close, batch, small_model, small_specs

FITTED = Calibration(
    both=CaseWeights(audio=0.1234567890123, text=0.3765432109877, fused=0.5, temperature=1.2345678901234),
    audio_only=CaseWeights(audio=0.4, text=0.0, fused=0.6),
    text_only=CaseWeights(audio=0.0, text=0.9, fused=0.1),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(
        tmp_path / "tiny",
        small_model(),
        encoders=small_specs(),
        calibration=FITTED,
        provisional=True,
        note="toy data",
    )


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = config_of(folder)
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Other tensors, with a hash that fits them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(folder, lambda config: config.update(weights_sha256=digest))


def equal(a: BCAF, b: BCAF) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_saved_comes_back(folder: Path):
    loaded = load_checkpoint(folder)
    model = small_model()
    assert equal(loaded.model, model)
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert loaded.labels == model.config.labels
    assert loaded.calibration == FITTED
    assert loaded.encoders == small_specs()
    assert (loaded.provisional, loaded.note, loaded.name) == (True, "toy data", "tiny")
    assert loaded.encoders_folder == folder / "encoders"
    given = batch(model, [5])
    with torch.inference_mode():
        assert torch.equal(loaded.model(*given).fused_BUC, model(*given).fused_BUC)


def test_tensors_named_as_by_the_first_releases_are_read(folder: Path):
    def former(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(".up.", ".rise.").replace(".down.", ".fall.")] = tensors.pop(name)
        assert any(".rise." in name for name in tensors)

    reweigh(folder, former)
    assert equal(load_checkpoint(folder).model, small_model())


def test_the_model_id_names_the_content(folder: Path, tmp_path: Path):
    first = load_checkpoint(folder).model_id
    assert first.startswith("tiny-")
    moved = folder.rename(tmp_path / "elsewhere")
    assert load_checkpoint(moved).model_id == first
    rewrite(moved, lambda config: config.update(note="other"))
    assert load_checkpoint(moved).model_id != first


def test_half_precision_on_disk_is_full_precision_in_memory(tmp_path: Path):
    model = small_model()
    half = save_checkpoint(tmp_path / "half", model, encoders=small_specs(), weights_dtype="float16")
    full = save_checkpoint(tmp_path / "full", model, encoders=small_specs())
    assert load_file(half / "model.safetensors")["unimodal_heads.weight"].dtype == torch.float16
    loaded = load_checkpoint(half).model
    assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())
    assert_close(loaded.unimodal_heads.weight, model.unimodal_heads.weight, atol=1e-3)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, full)]
    assert sizes[0] < 0.75 * sizes[1]


def test_loading_leaves_the_random_numbers_alone(folder: Path):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    load_checkpoint(folder)
    assert torch.equal(torch.randn(3), expected)


def test_the_hugging_face_way_reads_the_same_folder(folder: Path, tmp_path: Path):
    model = PublishedBCAF.from_pretrained(folder)
    assert equal(model, small_model())
    assert not model.training
    model.save_pretrained(tmp_path / "plain")
    assert equal(PublishedBCAF.from_pretrained(str(tmp_path / "plain")), model)
    with pytest.raises(CheckpointError, match="schema_version none"):  # no encoders, no calibration
        load_checkpoint(tmp_path / "plain")


def test_the_hugging_face_way_is_as_strict(folder: Path):
    reweigh(folder, lambda tensors: tensors.pop("unimodal_heads.bias"))
    with pytest.raises(CheckpointError, match=r"unimodal_heads\.bias missing"):
        PublishedBCAF.from_pretrained(folder)
    rewrite(folder, lambda config: config["config"].update(heads=3))
    with pytest.raises(CheckpointError, match="multiple of heads"):
        PublishedBCAF.from_pretrained(folder)


WRONG_CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another schema": (lambda c: c.update(schema_version=1), "schema_version 1, this version reads 2"),
    "no schema": (lambda c: c.pop("schema_version"), "schema_version none"),
    "unknown key": (lambda c: c.update(surprise=1), "surprise"),
    "missing key": (lambda c: c.pop("calibration"), "calibration: Field required"),
    "other labels": (lambda c: c.update(labels=["a", "b", "c", "d"]), "labels differ"),
    "other order of labels": (lambda c: c["labels"].reverse(), "labels differ"),
    "another audio encoder": (lambda c: c["encoders"]["audio"].update(width=99), "audio encoder is 99 wide"),
    "a float for an int": (lambda c: c["config"].update(layers=2.5), r"config\.layers"),
    "a text for a flag": (lambda c: c.update(provisional="no"), "provisional"),
    "a loud absent head": (lambda c: c["calibration"]["text_only"].update(audio=0.9, text=0.0), "absent modality"),
    "another width": (lambda c: c["config"].update(feed_forward=13), "of another shape"),
    "another depth": (lambda c: c["config"].update(layers=3), "missing"),
    "a shallower model": (lambda c: c["config"].update(layers=1), "left over"),
    "another hash": (lambda c: c.update(weights_sha256="0" * 64), "is not the file that config.json describes"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_a_wrong_config_is_refused(folder: Path, case: str):
    change, words = WRONG_CONFIGS[case]
    rewrite(folder, change)
    refused(folder, words)


WRONG_WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("unimodal_heads.weight"), r"unimodal_heads\.weight missing"),
    "left over": (lambda t: t.update(extra=torch.zeros(1)), "extra left over"),
    "other shape": (
        lambda t: t.update({"unimodal_heads.bias": torch.zeros(5)}),
        r"unimodal_heads\.bias of another shape",
    ),
    "not finite": (lambda t: t["unimodal_heads.bias"].fill_(float("nan")), "not made of finite floats"),
    "integers": (lambda t: t.update({"unimodal_heads.bias": torch.zeros(4, dtype=torch.int64)}), "finite floats"),
}


@pytest.mark.parametrize("case", WRONG_WEIGHTS)
def test_wrong_weights_are_refused(folder: Path, case: str):
    change, words = WRONG_WEIGHTS[case]
    reweigh(folder, change)
    refused(folder, words)


def test_broken_files_are_refused(folder: Path, tmp_path: Path):
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    for broken in (b"", whole[:100], whole[:-10], b"\x00" * 300):
        weights.write_bytes(broken)
        refused(folder, "cannot be read")
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    weights.write_bytes(flipped)
    refused(folder, "is not the file|not made of finite floats")
    weights.unlink()
    refused(folder, "model.safetensors is missing")
    for broken in ("", "{", "[1]", "\x00"):
        config.write_text(broken)
        refused(folder, "not a JSON map")
    config.unlink()
    refused(folder, "config.json is missing")
    refused(tmp_path / "nowhere", "config.json is missing")


def refused(folder: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message


def test_saving_again_replaces_all_of_it(folder: Path):
    (folder / "encoders").mkdir()
    (folder / "encoders" / "old").write_text("old")
    other = small_model(seed=4)

    def write_encoders(where: Path) -> None:
        (where / "new").write_text("new")

    save_checkpoint(folder, other, encoders=small_specs(), card="# Tiny", write_encoders=write_encoders)
    assert equal(load_checkpoint(folder).model, other)
    assert [p.name for p in (folder / "encoders").iterdir()] == ["new"]
    assert (folder / "README.md").read_text() == "# Tiny"
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"], "no temporary folder stays"


def failing_rename(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The disk fails at the n-th rename from now."""
    calls = []
    rename = os.rename

    def sometimes(source: Any, target: Any, **options: Any) -> None:
        calls.append(source)
        if len(calls) == at:
            raise OSError(28, "No space left on device")
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", sometimes)


@pytest.mark.parametrize("at", [1, 2])
def test_a_save_that_fails_leaves_the_last_good_one(folder: Path, monkeypatch: pytest.MonkeyPatch, at: int):
    before = load_checkpoint(folder).model_id
    failing_rename(monkeypatch, at)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(folder, small_model(seed=4), encoders=small_specs())
    assert load_checkpoint(folder).model_id == before
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_an_encoder_that_cannot_be_written_leaves_the_last_good_one(folder: Path):
    before = load_checkpoint(folder).model_id

    def broken(where: Path) -> None:
        raise RuntimeError("encoder")

    with pytest.raises(RuntimeError):
        save_checkpoint(folder, small_model(seed=4), encoders=small_specs(), write_encoders=broken)
    assert load_checkpoint(folder).model_id == before
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_a_process_killed_between_the_renames_is_told_the_way_back(folder: Path):
    folder.rename(folder.with_name(".tiny.previous"))
    refused(folder, r"rename .*\.tiny\.previous to tiny")


def test_what_does_not_fit_is_not_saved(tmp_path: Path):
    wrong = small_specs().model_copy(update={"text": EncoderSpec(kind="fake", name="x", width=11)})
    with pytest.raises(CheckpointError, match="text encoder is 11 wide, but the model takes 10"):
        save_checkpoint(tmp_path / "a", small_model(), encoders=wrong)
    sick = small_model()
    sick.unimodal_heads.bias.data[0] = float("inf")
    with pytest.raises(CheckpointError, match=r"unimodal_heads\.bias holds numbers that are not finite"):
        save_checkpoint(tmp_path / "b", sick, encoders=small_specs())
    large = small_model()
    large.unimodal_heads.bias.data[0] = 1e6
    with pytest.raises(CheckpointError, match=r"not finite in torch\.float16"):
        save_checkpoint(tmp_path / "c", large, encoders=small_specs(), weights_dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="is not a checkpoint; choose another folder"):
        save_checkpoint(tmp_path, small_model(), encoders=small_specs())
    assert (tmp_path / "thesis.txt").exists()
