"""What compact-open is trained on: what each source gives, and that nothing crosses its splits."""

import gzip
from collections import Counter, defaultdict

import numpy as np
import pytest

from bcaf_stream.errors import DataError
from training.compact import clips, open_sources
from training.compact.config import LABELS
from training.compact.open_sources import (
    FROM_SPEAKER,
    LINES,
    LONGEST_LINE,
    MOST,
    NAMES,
    open_texts,
    read_open_clips,
)


def packed(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def text(tmp_path):
    text = tmp_path / "text"
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
    return text


@pytest.fixture
def sound(tmp_path, monkeypatch):
    speech, talk = tmp_path / "speech", tmp_path / "talk"
    for module in (clips, open_sources):
        monkeypatch.setattr(module, "decode", lambda path: (np.zeros(16_000 * 6, dtype=np.int16), ""))
    for name in ("03a01Wa", "12a01Fa", "15a01Na", "03a02Lb"):
        (speech / "emodb").mkdir(parents=True, exist_ok=True)
        (speech / "emodb" / f"{name}.flac").touch()
    (speech / "cremad").mkdir()
    rows = [f"{1000 + n}_X.opus\tjoy\tHAP\t{1000 + n}\tIEO_HI\t1.0" for n in range(16)]
    rows += [f"1000_X{n}.opus\tsadness\tSAD\t1000\tIEO_X\t1.0" for n in range(FROM_SPEAKER + 3)]
    rows.append("1000_X.opus\tneutral\tNEU\t1000\tIEO_X\t1.0")
    head = "file\temotion\toriginal_label\tspeaker\ttext\tseconds"
    (speech / "cremad" / "labels.tsv").write_text("\n".join([head, *rows]) + "\n")
    talk.mkdir()
    (talk / "ami_trn.rttm").write_text(
        "SPEAKER TRN00 1 1.5 9.0 <NA> <NA> a <NA> <NA>\nSPEAKER TRN00 1 2 0.3 <NA> <NA> a <NA> <NA>\n"
    )
    (talk / "sample.rttm").write_text("SPEAKER sample 1 2 3 <NA> <NA> a <NA> <NA>\n")  # no meeting
    (talk / "ami_trn00.flac").touch()
    return speech, talk


def lines_of(dialogues):
    return [(text, LABELS[label]) for one in dialogues for text, label in one]


def test_short_lines_of_one_label_come_in_and_none_stands_in_two_splits(text):
    found = open_texts(text)
    train = lines_of(found["train"])
    assert (
        Counter(words.split()[0] for words, _ in train)["train"] == 30 + 1
    )  # not the curious ones, nor two at once
    assert ("train afraid", "fear") in train
    assert ("train, none", "neutral") in train
    places = defaultdict(set)
    for split, dialogues in found.items():
        assert dialogues
        assert all(len(one) <= LINES for one in dialogues)
        for words, _ in lines_of(dialogues):
            places[words].add(split)
    assert sum(words.startswith("xed") for words in places) == 60
    assert all(len(one) == 1 for one in places.values())


def test_the_same_seed_gives_the_same_dialogues_and_a_large_class_is_bounded(text):
    assert open_texts(text) == open_texts(text)
    most = MOST["train"][1]
    long = " ".join(["so"] * (LONGEST_LINE + 1)) + "\t2\tx\n"
    packed(text / "goemotions" / "train.tsv.gz", long + "".join(f"happy {n}\t2\tx\n" for n in range(most + 50)))
    mine = [words for words, _ in lines_of(open_texts(text)["train"]) if words.startswith(("happy", "so so"))]
    assert len(mine) == most
    assert all(words.startswith("happy") for words in mine)


def test_what_was_taken_out_of_a_line_is_a_name_again_and_unlabelled_rows_are_not_neutral(text):
    packed(text / "goemotions" / "dev.tsv.gz", "[NAME] met [PERSON]\t2\tx\n")
    packed(text / "goemotions" / "train.tsv.gz", "xed 3 is fine\t2\tx\ntrain line\t2\tx\n")
    packed(text / "goemotions" / "test.tsv.gz", "xed 3 is fine\t2\tx\n")
    packed(text / "brighter_eng" / "test.csv.gz", "id,text,anger,fear,joy,sadness,surprise\na,who knows,,,,,\n")
    found = open_texts(text)
    (said,) = [words for words, _ in lines_of(found["dev"]) if " met " in words]
    assert {said.split()[0], said.split()[2]} <= set(NAMES)
    assert not [words for words, _ in lines_of(found["test"]) if "who knows" in words]
    assert "xed 3 is fine" not in [words for words, _ in lines_of(found["train"])]  # it stands in test, too


def test_clips_keep_their_speakers_in_one_split_and_know_their_words(sound):
    found = read_open_clips(*sound)
    assert Counter(clip.corpus for clip in found) == {"emodb": 4, "cremad": 16 + FROM_SPEAKER, "anchor": 2}
    splits = defaultdict(set)
    for clip in found:
        splits[clip.speaker].add(clip.split)
    assert all(len(one) == 1 for one in splits.values())
    of_cremad = Counter(clip.split for clip in found if clip.corpus == "cremad")
    assert of_cremad == {"train": 12, "dev": 2 + FROM_SPEAKER, "test": 2}
    assert {clip.words for clip in found if clip.corpus == "cremad"} == {"It's eleven o'clock."}


def test_a_source_that_is_missing_is_named(text):
    (text / "xed" / "neu_en.txt.gz").unlink()
    with pytest.raises(DataError, match=r"neu_en.txt.gz: cannot be read \(FileNotFoundError\)"):
        open_texts(text)
