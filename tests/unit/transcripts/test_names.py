"""Names in a transcript are taken off, become channels or roles, and are listed; marks are no words."""

from pathlib import Path

import pytest

from bcaf_stream.errors import TranscriptError, UsageError
from bcaf_stream.transcripts.sources import Transcript, read_transcript
from bcaf_stream.types import Channel

STEREO = (Channel("customer", "customer"), Channel("agent", "agent"))
MONO = (Channel("mono"),)


def srt(*cues: str, step: int = 2) -> str:
    clock = lambda s: f"00:{s // 60:02}:{s % 60:02},000"  # noqa: E731
    rows = (f"{i + 1}\n{clock(i * step)} --> {clock(i * step + step)}\n{cue}\n" for i, cue in enumerate(cues))
    return "\n".join(rows)


def read(folder: Path, content: str, channels=STEREO, speakers=(), name: str = "a.srt") -> Transcript:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return read_transcript(path, channels, dict(speakers))


def told(transcript: Transcript) -> list[tuple[str | None, str]]:
    return [(words.channel, words.text) for words in transcript.words]


@pytest.mark.parametrize(
    ("cues", "names"),
    [
        (
            ["Daniel Reyes: Hello.", "Maria Lopez: Hi there.", "Daniel Reyes: Go on."],
            ["Daniel Reyes", "Maria Lopez"],
        ),
        (
            ["[SPEAKER_00]: Hello.", "[SPEAKER_01]: Hi there.", "[SPEAKER_00]: Go on."],
            ["SPEAKER_00", "SPEAKER_01"],
        ),
        (["SPEAKER_00: Hello.", "SPEAKER_01: Hi there.", "SPEAKER_00: Go on."], ["SPEAKER_00", "SPEAKER_01"]),
        (["(speaker 0) Hello.", "(speaker 1) Hi there.", "(speaker 0) Go on."], ["speaker 0", "speaker 1"]),
        (["Speaker 1: Hello.", "Speaker 2: Hi there.", "Speaker 1: Go on."], ["Speaker 1", "Speaker 2"]),
        ([">> Dan: Hello.", ">> Sue: Hi there.", ">> Dan: Go on."], ["Dan", "Sue"]),
        (["DAN: Hello.", "SUE: Hi there.", "DAN: Go on."], ["DAN", "SUE"]),
        (["O'Neil, Jean-Luc: Hello.", "Dr. Kim: Hi there.", "Dr. Kim: Go on."], ["O'Neil, Jean-Luc", "Dr. Kim"]),
        (["Мария: Hello.", "Иван: Hi there.", "Мария: Go on."], ["Мария", "Иван"]),
        (
            ["(Dan Lee)\nHello.", "(Sue Kim)\nHi there.", "(Dan Lee)\nGo on.", "(Sue Kim)\n"],
            ["Dan Lee", "Sue Kim"],
        ),
        (["田中：Hello.", "鈴木：Hi there.", "田中：Go on."], ["田中", "鈴木"]),
    ],
)
def test_names_are_lanes_of_a_mono_call_and_no_words(tmp_path, cues, names):
    transcript = read(tmp_path, srt(*cues), MONO)
    assert [lane.name for lane in transcript.lanes] == names
    assert [text for _, text in told(transcript)] == ["Hello.", "Hi there.", "Go on."]
    (note,) = transcript.notes
    assert all(f'"{name}"' in note for name in names)
    assert f'--speaker "{names[0]}"=' in note
    stereo = read(tmp_path, srt(*cues))
    assert told(stereo) == [(None, "Hello."), (None, "Hi there."), (None, "Go on.")]
    assert f'--speaker "{names[0]}"=' in stereo.notes[0]


@pytest.mark.parametrize(
    "said",
    [
        "Note: my number is 4711.",
        "Look: I want my money back.",
        "12:30 is fine for me.",
        "See https://example.com/help for it.",
        "It is 10:15: too late.",
        "My number is: four four seven.",
        "Monday: nobody came.",
        "I told him this: no.",
    ],
)
def test_what_is_no_name_stays(tmp_path, said):
    for cues in (
        [said],
        [said, "And then?", said, "I see."],
        ["Agent: Yes?", f"Customer: {said}", f"Agent: {said}"],
    ):
        assert [t for _, t in told(read(tmp_path, srt(*cues)))] == [
            c.removeprefix("Agent: ").removeprefix("Customer: ") for c in cues
        ]


def test_the_user_says_who_is_who(tmp_path):
    cues = srt("Daniel Reyes: Hello.", "Maria Lopez: Hi.", "Daniel Reyes: Go on.")
    both = {"daniel reyes": "agent", "Maria Lopez": "customer"}
    stereo = read(tmp_path, cues, speakers=both)
    assert (told(stereo), stereo.notes) == ([("agent", "Hello."), ("customer", "Hi."), ("agent", "Go on.")], ())
    mono = read(tmp_path, cues, MONO, both)
    assert mono.lanes == (Channel("Daniel Reyes", "agent"), Channel("Maria Lopez", "customer"))
    assert mono.notes == ()
    one = read(tmp_path, cues, speakers={"Maria Lopez": "customer"})
    assert told(one)[1] == ("customer", "Hi.")
    assert "Daniel" in one.notes[0]
    assert "Maria" not in one.notes[0]
    with pytest.raises(
        TranscriptError, match=r'--speaker "Bob": the transcript names "Daniel Reyes", "Maria Lopez"'
    ):
        read(tmp_path, cues, speakers={"Bob": "agent"})
    with pytest.raises(UsageError, match="must be one of customer, agent"):
        read(tmp_path, cues, speakers={"Maria Lopez": "boss"})
    with pytest.raises(UsageError, match="must be one of customer, agent, speaker"):
        read(tmp_path, cues, MONO, {"Maria Lopez": "mono"})


def test_roles_in_the_names_are_roles(tmp_path):
    cues = srt("Agent (Daniel): I am sorry.", ">> Caller: I am angry.", "Agent (Daniel): I see.")
    assert told(read(tmp_path, cues)) == [
        ("agent", "I am sorry."),
        ("customer", "I am angry."),
        ("agent", "I see."),
    ]
    mono = read(tmp_path, cues, MONO)
    assert mono.lanes == (Channel("Agent (Daniel)", "agent"), Channel("Caller", "customer"))
    assert mono.notes == ()


def test_a_cue_with_two_names_is_cut_between_them(tmp_path):
    cue = "Daniel Reyes: Thank you.\nMaria Lopez: You are welcome."
    mono = read(tmp_path, srt(cue, "Daniel Reyes: Bye."), MONO)
    assert [(w.start_ms, w.end_ms, w.channel, w.text) for w in mono.words] == [
        (0, 783, "Daniel Reyes", "Thank you."),
        (783, 2000, "Maria Lopez", "You are welcome."),
        (2000, 4000, "Daniel Reyes", "Bye."),
    ]


MARKS = [
    "[BLANK_AUDIO]",
    "[MUSIC PLAYING]",
    "(laughs)",
    "♪ ♪",
    "♪ la la la ♪",
    "*sighs*",
    "<|nospeech|>",
    "-",
    ">>",
]
MARKS += ["(speaking in foreign language)", "[inaudible 00:01:20]", "(upbeat music)", "♪"]


@pytest.mark.parametrize("mark", MARKS)
def test_marks_are_no_words(tmp_path, mark):
    assert told(read(tmp_path, srt(f"{mark}", f"Well {mark} yes.", f"{mark} No."))) in (
        [(None, "Well yes."), (None, "No.")],
        [(None, "Well - yes."), (None, "No.")],  # a dash inside a sentence is punctuation
        [(None, "Well"), (None, "No.")],  # what is sung to the end of the line
        [(None, "Well")],
    )
    alone = read(tmp_path, srt(mark, mark))
    assert [w.text for w in alone.words] == [""]
    assert "holds no words" in alone.notes[0]


def test_brackets_with_words_stay(tmp_path):
    said = "My area code (555) and (I think) it is fine (really)."
    assert told(read(tmp_path, srt(said, "(I can't hear you.)"))) == [(None, said), (None, "(I can't hear you.)")]


def test_c1_and_entities_are_mended(tmp_path):
    said = "I\x92m sorry \x96 that\x92s \x93it\x94 &amp; I&#39;ll &quot;go&quot;&nbsp;now "
    said += "&amp;#39;now&amp;#39; AT&T\x85"
    assert told(read(tmp_path, srt(said))) == [(None, "I’m sorry – that’s “it” & I'll \"go\" now 'now' AT&T…")]


def test_rolling_captions_say_each_line_once(tmp_path):
    rolled = srt("One two.", "One two.\nThree four.", "Three four.\nOne two.", "One two.")
    assert [t for _, t in told(read(tmp_path, rolled))] == ["One two.", "Three four.", "One two."]
    digits = srt("Zero.", "Zero.", "Zero.", "Four.")
    assert [t for _, t in told(read(tmp_path, digits))] == ["Zero.", "Zero.", "Zero.", "Four."]
    spoken = srt("Yes.", "Are you sure?", "Yes.", "Yes.", "Well then.", "Good.")
    assert [t for _, t in told(read(tmp_path, spoken))][2:4] == ["Yes.", "Yes."]


def test_captions_that_grow_say_each_word_once(tmp_path):
    """Live captions are saved as they stood, each time with a few words more and other marks."""
    grown = srt("hello", "Hello there.", "Hello there, my friend.", "Who", "who are", "Who are you?", "Good.")
    assert [t for _, t in told(read(tmp_path, grown))] == [
        "hello", "there.", "my friend.", "Who", "are", "you?", "Good."
    ]  # fmt: skip
    spoken = srt("No.", "No, no.", "I never said so.", "No.", "Why?", "Why not?", "Because.", "I did.")
    assert [t for _, t in told(read(tmp_path, spoken))][:2] == ["No.", "No, no."]


def test_whisper_cpp_does_not_know_who_speaks(tmp_path):
    assert told(read(tmp_path, srt("(speaker ?) Hi.", "(speaker 0) Yes."))) == [(None, "Hi."), (None, "Yes.")]


def test_unsorted_cues_are_sorted_and_two_transcripts_refused(tmp_path):
    cues = srt("one.", "two.", "three.", "four.").split("\n\n")
    shuffled = "\n\n".join(cue.strip() for cue in (cues[2], cues[0], cues[3], cues[1])) + "\n"
    assert [t for _, t in told(read(tmp_path, shuffled))] == ["one.", "two.", "three.", "four."]
    with pytest.raises(TranscriptError, match=r"line 18: the times begin again at 0.000 s.*two transcripts"):
        read(tmp_path, srt("one.", "two.", "three.", "four.") + "\n" + srt("five.", "six.", "seven."))
