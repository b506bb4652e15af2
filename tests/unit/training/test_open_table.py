"""The table of compact-open: what each source gives, and that nothing crosses its splits."""

import gzip
import json
from collections import defaultdict

import pytest

from bcaf_stream.errors import DataError
from training.compact.config import LABELS
from training.compact.open_table import MOST, write_open_table


def packed(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def sources(tmp_path):
    text, speech, talk = tmp_path / "text", tmp_path / "speech", tmp_path / "talk"
    packed(text / "goemotions" / "labels.txt.gz", "anger\ncuriosity\njoy\nneutral\n")
    for split in ("train", "dev", "test"):
        lines = [f'{split} line {n} said "so\t{n % 4}\tx{n}' for n in range(40)]
        packed(text / "goemotions" / f"{split}.tsv.gz", "\n".join([*lines, "two\t0,2\tx"]) + "\n")
        rows = 'id,text,anger,fear,joy,sadness,surprise\na,"both, at once",1,1,0,0,0\n'
        rows += f'b,"{split}, none",0,0,0,0,0\nc,{split} afraid,0,1,0,0,0\n'
        packed(text / "brighter_eng" / f"{split}.csv.gz", rows)
    packed(
        text / "xed" / "en-annotated.tsv.gz", "".join(f"xed {n}\t{n % 8 + 1}\n" for n in range(80)) + "two\t1, 4\n"
    )
    packed(text / "xed" / "neu_en.txt.gz", "9\tplain words\n")
    for name in ("03a01Wa", "12a01Fa", "15a01Na", "03a02Lb"):
        (speech / "emodb").mkdir(parents=True, exist_ok=True)
        (speech / "emodb" / f"{name}.flac").touch()
    (speech / "cremad").mkdir()
    rows = [f"{1000 + n}_X.opus\tjoy\tHAP\t{1000 + n}\tX\t1.0" for n in range(16)]
    head = "file\temotion\toriginal_label\tspeaker\ttext\tseconds"
    (speech / "cremad" / "labels.tsv").write_text("\n".join([head, *rows]) + "\n")
    talk.mkdir()
    (talk / "ami_trn.rttm").write_text(
        "SPEAKER TRN00 1 1.5 9.0 <NA> <NA> a <NA> <NA>\nSPEAKER TRN00 1 2 0.3 <NA> <NA> a <NA> <NA>\n"
        "SPEAKER absent 1 2 3 <NA> <NA> a <NA> <NA>\n"
    )
    (talk / "ami_trn00.flac").touch()
    return text, speech, talk, tmp_path / "out"


def records(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_lines_and_clips_of_one_label_come_in_and_nothing_crosses_a_split(sources):
    counts = write_open_table(*sources)
    rows = records(sources[3])
    assert counts["goemotions"] == 3 * 30  # not the curious ones, and not that with two
    assert counts["brighter"] == 3 * 2
    assert counts["xed"] == 60 + 1
    assert (counts["emodb"], counts["cremad"], counts["ami"]) == (3, 16, 1)  # boredom has no counterpart
    assert {row["label"] for row in rows} <= set(LABELS)
    splits = defaultdict(set)
    for row in rows:
        splits[row["call"]].add(row["split"])
        for key in ("text", "audio"):
            if key in row:
                splits[row[key]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert len({(row["call"], row["utterance"]) for row in rows}) == len(rows)
    (turn,) = [row for row in rows if row["call"].startswith("ami")]
    assert (turn["audio_start_ms"], turn["audio_end_ms"]) == (1500, 5500)
    assert any("text" in row and "audio" in row for row in rows)


def test_the_same_seed_writes_the_same_table_and_a_large_class_is_bounded(sources):
    first = (write_open_table(*sources), records(sources[3]))
    assert (write_open_table(*sources), records(sources[3])) == first
    many = "".join(f"happy {n}\t2\tx\n" for n in range(MOST["train"] + 50))
    packed(sources[0] / "goemotions" / "train.tsv.gz", many)
    write_open_table(*sources)
    mine = [row for row in records(sources[3]) if row["call"].startswith("goemotions-train")]
    assert len(mine) == MOST["train"]


def test_a_source_that_is_missing_is_named(sources):
    (sources[0] / "xed" / "neu_en.txt.gz").unlink()
    with pytest.raises(DataError, match=r"neu_en.txt.gz: cannot be read \(FileNotFoundError\)"):
        write_open_table(*sources)
