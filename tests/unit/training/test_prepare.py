"""`bcaf-train prepare manifest`: what it asks for, what it prints, what it writes."""

import numpy as np
import pytest
from typer.testing import CliRunner

from bcaf_stream.errors import UsageError
from tests.unit.training.made import records, write_jsonl
from training.cli import app
from training.datasets.manifest import read_manifest


def prepare(corpus, root, *options):
    words = ["prepare", corpus, "--root", root, "--out", root.parent / "made", *options]
    app([str(word) for word in words], standalone_mode=False)
    return read_manifest(root.parent / "made")


def test_a_table_with_names_of_its_own_becomes_a_manifest(tmp_path, capsys):
    names = {"calm": "A", "cross": "X"}
    rows = [
        {**row, "label": names[row["label"]], "split": "Train", "speaker": f"Ses{i % 2}", "arousal": 0.5}
        for i, row in enumerate(records({"train": 10}))
    ]
    root = write_jsonl(tmp_path / "mine.jsonl", rows)
    options = ("--label", "A=calm", "--label", "X=", "--split", "Train=train", "--ignore", "arousal")
    manifest = prepare("manifest", root, *options, "--dev-share", "0.2")
    assert manifest.corpus.labels == ("calm",)
    assert manifest.corpus.notes[:3] == (
        "labels renamed: A to calm",
        "labels taken away: X",
        "splits renamed: Train to train",
    )
    assert "dev may share speakers with train" in manifest.corpus.separation
    assert len({row.call for row in manifest.split("dev")}) == 2
    np.testing.assert_array_equal(manifest.rows[3].audio_vector, np.float32(rows[3]["audio_vector"]))
    said = capsys.readouterr()
    assert "labels taken away: X\n" in said.out
    assert "1 splits without a labelled utterance (fit needs train and dev, " in said.err
    assert "2 speakers in more than one split: Ses0 (train, dev), Ses1 (train, dev)\n" in said.err


def test_what_it_prints_is_neither_broken_nor_taken_for_markup(tmp_path, capsys):
    rows = [{**row, "label": "[bold]"} for row in records({"train": 1, "dev": 1})]
    name = "a corpus [red] whose name is long " * 6
    prepare("manifest", write_jsonl(tmp_path / "mine.jsonl", rows), "--name", name)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{name}: utterances by label and split"
    assert "[bold]" in out


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        ("manifest", ("--label", "angry"), "--label angry: must be OLD=NEW, and each OLD once"),
        ("manifest", ("--label", "a=b", "--label", "a=c"), "--label a=c: must be OLD=NEW, and each OLD once"),
        ("manifest", ("--split", "Development="), "--split Development=: a split is train, dev, test"),
    ],
)
def test_wrong_usage_is_named(tmp_path, corpus, options, message):
    with pytest.raises(UsageError) as error:
        prepare(corpus, tmp_path / "mine.jsonl", *options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("corpus", "option"),
    [
        ("meld", ("--label", "a=b")),
        ("meld", ("--classes", "4")),
        ("meld", ("--keep-unlabelled",)),
        ("iemocap", ("--dev-share", "0.1")),
        ("manifest", ("--classes", "4")),
    ],
)
def test_an_option_of_another_corpus_is_wrong_usage(tmp_path, corpus, option):
    words = ["prepare", corpus, "--root", tmp_path / "mine", "--out", tmp_path / "made", *option]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2
    assert f"No such option: {option[0]}" in done.output
    assert not (tmp_path / "made").exists()
