"""bcaf-stream: analyze a recording, send one as if it were live, listen to events, see what is installed."""

import gc
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from bcaf_stream.cli.alerts import alerts_app
from bcaf_stream.cli.bridges import bridge_app
from bcaf_stream.cli.events import register
from bcaf_stream.cli.monitor import monitor
from bcaf_stream.cli.report import report
from bcaf_stream.config import load_config
from bcaf_stream.console import (
    EventView,
    clock,
    connection_note,
    leave,
    progress_bar,
    run,
    stderr_note,
    writing_to,
)
from bcaf_stream.display import printable
from bcaf_stream.errors import AsrError, LinkError, UsageError
from bcaf_stream.types import Call, Policy, Role

GARBAGE_AFTER = 50_000  # new objects; Python's 700 cost a fifth of the start

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False
)

Source = Annotated[str | None, typer.Argument(metavar="[CALL]", help="a file or URL that FFmpeg can open")]
SendSource = Annotated[
    str | None,
    typer.Argument(
        metavar="[CALL]", help="a file or URL, - for standard input (s16le or a container), or mic, the microphone"
    ),
]
Channels = Annotated[
    list[str] | None,
    typer.Option("--channel", help="NAME=FILE, or NAME=FILE#N for its Nth audio track; once per channel"),
]
TrackOption = Annotated[
    int | None, typer.Option("--track", min=0, help="which audio track of a file with several, from 0")
]
Raw = Annotated[
    str | None, typer.Option("--raw", help="ENCODING:RATE:CHANNELS of files without a header, as in mulaw:8000:1")
]
Roles = Annotated[list[str] | None, typer.Option("--role", help="NAME=customer|agent|speaker")]
Transcript = Annotated[
    Path | None,
    typer.Option(help="SRT, WebVTT, CTM, STM, JSON lines or a recogniser's JSON; default: speech recognition"),
]
Speakers = Annotated[
    list[str] | None,
    typer.Option("--speaker", help="NAME=CHANNEL or role: whose the words of that name in the transcript are"),
]
TextOption = Literal["asr", "none"]
TextMode = Annotated[
    TextOption, typer.Option("--text", help="asr, or none for audio alone; a transcript overrides it")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="a YAML file; see configs/analyze")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file")]
LINK = "tcp://127.0.0.1:5560"
Output = Annotated[Path | None, typer.Option(help="write there instead of to standard output")]


AnalyzeFormat = Literal["table", "jsonl", "rttm", "srt"]


@app.callback()
def main_help() -> None:
    """Emotions of a two-party call, utterance by utterance: on a file, or live over ZeroMQ."""


@app.command()
def analyze(
    source: Source = None,
    channel: Channels = None,
    track: TrackOption = None,
    raw: Raw = None,
    role: Roles = None,
    transcript: Transcript = None,
    speaker: Speakers = None,
    text: TextMode = "asr",
    speakers: Annotated[
        str | None,
        typer.Option(
            metavar="auto|off|final|N",
            help="tell the people on one channel apart: N at most; final hears all twice",
        ),
    ] = None,
    enrol: Annotated[
        list[str] | None, typer.Option("--enrol", help="agent=VOICE.wav: whose voice that is has the role")
    ] = None,
    format: Annotated[AnalyzeFormat, typer.Option(help="events as a table or lines, or who spoke when")] = "table",
    output: Output = None,
    plot: Annotated[Path | None, typer.Option(help="draw the call there, e.g. timeline.png")] = None,
    call: Annotated[str | None, typer.Option(help="the call's id; default: the file's name")] = None,
    alerts: Annotated[Path | None, typer.Option(help="a YAML file of rules; see configs/alerts")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="compact, compact-open, a folder, or a hub id")
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
) -> None:
    """Print the emotion events of a whole recording."""
    from bcaf_stream.analyzer import AnalyzerConfig  # torch loads in seconds: not for --help
    from bcaf_stream.audio.crosstalk import SAME_SOUND
    from bcaf_stream.audio.raw import parse_raw
    from bcaf_stream.audio.speakers.config import enrolled_roles, speakers_of
    from bcaf_stream.emotion_model import use_threads
    from bcaf_stream.recording import Analysis, Recording

    if plot and not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot {plot}: no such folder")
    rules = [f"alerts={json.dumps(str(alerts))}"] if alerts else []
    weights = [f"model.checkpoint={json.dumps(checkpoint)}"] if checkpoint else []
    people = _people(speakers, _pairs(enrol, "--enrol"))
    settings = load_config(AnalyzerConfig, config, [*rules, *weights, *people, *(set_ or ())])
    recording = Recording.open(
        source,
        _pairs(channel, "--channel"),
        _pairs(role, "--role"),
        call,
        track=track,
        raw=parse_raw(raw) if raw else None,
    )
    named = _speakers(speaker, transcript)
    words = None
    if transcript:
        recording, given = recording.with_transcript(transcript, named)
        words = given.words
        _note(given.notes)
    events = []
    with (
        writing_to(output) as out,
        EventView(format, out, title=recording.call.id) if format in ("table", "jsonl") else nullcontext() as view,
        _telling() as notes,
        progress_bar("analysing", recording.duration_ms) as progress,
    ):
        use_threads(settings.model)
        try:
            analysis = Analysis(
                recording, settings, _text_mode(text, transcript), words, progress, speakers == "final"
            )
        except AsrError as error:
            raise AsrError(f"{error} (--transcript FILE, or --text none)") from None
        for caveat in analysis.engine.caveats:
            stderr_note(f"bcaf-stream: {caveat}")
        if enrolled_roles(settings.audio.speakers) and (
            recording.cuts or not speakers_of(settings.audio.speakers, recording.call.channels)
        ):
            _note([_NOBODY_SHARES])
        _note(_policy_notes(recording.call, settings.text.policy, enrolled_roles(settings.audio.speakers)))
        try:
            for event in analysis:
                if view:
                    view.add(event)
                events.append(event)
        finally:
            if not view:
                from bcaf_stream.cli.turn_files import rttm, srt

                out.write(rttm(events) if format == "rttm" else srt(events))
            notes.extend(analysis.notes)
    if not any(event.utterance is not None for event in events):
        why = "; ".join(event.reason for event in events if event.type == "degraded" and event.reason)
        if all(settings.text.policy.get(one.role) == "off" for one in recording.call.channels):
            why = why or "text.policy is off for everybody in it"
        why = why or f"no speech in {clock(recording.duration_ms) or 'the'} of audio"
        stderr_note(f"bcaf-stream: {why}: zero utterances")
    if analysis.unpaired_words:
        stderr_note(
            f"bcaf-stream: {analysis.unpaired_words} words of the transcript fell where no speech was found"
        )
    if any(SAME_SOUND in (event.reason or "") for event in events if event.type == "degraded"):
        file = source or next(iter(_pairs(channel, "--channel").values()))
        stderr_note(
            f"bcaf-stream: its channels hold one sound: --channel mono={file}#0 reads it as one channel, and a"
            " transcript with names then tells its speakers apart"
        )
    if plot:
        from bcaf_stream.cli.plot import save_timeline

        save_timeline(events, plot, recording.call.id)


@app.command()
def send(
    source: SendSource = None,
    to: Annotated[
        list[str] | None,
        typer.Option(help="where the deployment takes audio; repeat it for several replicas", show_default=LINK),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0, help="1 = as it was spoken, the default; 0 = as fast as accepted")
    ] = None,
    channel: Channels = None,
    track: TrackOption = None,
    raw: Raw = None,
    role: Roles = None,
    transcript: Transcript = None,
    speaker: Speakers = None,
    text: TextMode = "asr",
    call: Annotated[str | None, typer.Option(help="the call's id; default: the file's name and the time")] = None,
    rate: Annotated[int | None, typer.Option(min=8000, max=192_000, help="of mic and raw samples, in Hz")] = None,
    channels: Annotated[int | None, typer.Option(min=1, max=16, help="of - and mic; default: 1")] = None,
    device: Annotated[str | None, typer.Option(help="of mic: a part of its name; default: the system's")] = None,
    give_up: Annotated[
        float, typer.Option(min=0, help="seconds to look for a lost deployment again, before the call is given up")
    ] = 120.0,
) -> None:
    """Stream a recording, standard input or the microphone to a running deployment."""
    from bcaf_stream.client.link import SenderConfig

    config = SenderConfig(give_up_s=give_up)
    roles = _pairs(role, "--role")
    mode = _text_mode(text, transcript)
    speakers = _speakers(speaker, transcript)
    words = None
    from bcaf_stream.audio.raw import parse_raw

    if source in ("-", "mic"):
        from bcaf_stream.client.live import live_call, live_source, send_live
        from bcaf_stream.transcripts.sources import read_transcript

        of_mic = source == "mic" and (transcript or raw)
        if channel or speed is not None or track is not None or of_mic:
            raise UsageError(
                f"send {source}: --channel, --track, --speed and a microphone's --transcript and --raw are not for"
                " live sound"
            )
        live = live_source(source, rate, channels, device, parse_raw(raw) if raw else None)
        named = live_call(source, live.channels, roles, call)
        if transcript:
            # Sound that is not there yet is not cut between the speakers of a single channel.
            sides = named.channels if len(named.channels) > 1 else None
            if speakers and not sides:
                raise UsageError(f"send {source}: --speaker needs --channels 2 or more, or a recording")
            given = read_transcript(transcript, sides, speakers)
            words = given.words if sides else [replace(entry, channel=None) for entry in given.words]
            _note(given.notes)
        with _own_options():
            closed = send_live(live, named, to or [LINK], mode, words, config)
    else:
        from bcaf_stream.client.recorded import send_recording
        from bcaf_stream.recording import Recording

        if rate or channels or device:
            raise UsageError("--rate, --channels and --device are for - and mic: a recording has its own")
        recording = Recording.open(
            source,
            _pairs(channel, "--channel"),
            roles,
            call,
            unique=True,
            track=track,
            raw=parse_raw(raw) if raw else None,
        )
        _note(recording.notes)
        if transcript:
            recording, given = recording.with_transcript(transcript, speakers)
            words = given.words
            _note(given.notes)
        named = recording.call
        with _own_options():
            pace = 1.0 if speed is None else speed
            closed = send_recording(recording, to or [LINK], pace, mode, words, config, connection_note)
    print(printable(f"call {named.id}: {closed.utterances} utterances, {closed.reason}"))


@app.command()
def doctor() -> None:
    """Say what works here and what to do about what does not. Exit code 1 when something must be mended."""
    from bcaf_stream.cli.doctor import examine

    raise typer.Exit(examine())


@contextmanager
def _own_options() -> Iterator[None]:
    """Names this command's options where the server, which knows nothing of them, says what is wrong."""
    try:
        yield
    except LinkError as error:
        ways = {
            "running already": "choose another --call",
            "in the journal already": "choose another --call",
            "has no speech recognition": "give --transcript FILE or --text none",
        }
        text = str(error)
        way = next((way for problem, way in ways.items() if problem in text and way not in text), None)
        raise LinkError(f"{text}; {way}" if way else text) from None


def _pairs(options: Sequence[str] | None, flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for option in options or ():
        name, sign, value = option.partition("=")
        if not sign or not name or not value:
            raise UsageError(f"{flag} {option}: must be NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{flag} {name}: given twice")
        pairs[name] = value
    return pairs


_NOBODY_SHARES = (
    "--enrol has no effect: each channel of this recording has one party; where several people share one,"
    " say so with --role NAME=speaker"
)


def _policy_notes(call: Call, policies: Mapping[Role, Policy], enrolled: Collection[Role]) -> list[str]:
    """What a policy cannot do: where nobody has its role, it holds for nobody."""
    unknown = [channel.name for channel in call.channels if channel.role == "speaker"]
    return [
        f"text.policy.{role}={policy} holds for nobody: no channel is known to be the {role}'s;"
        f" --role NAME={role} with {' or '.join(unknown)}, or --speaker for names in a transcript, says whose"
        for role, policy in policies.items()
        if policy != "fused" and unknown and role not in {*enrolled, *(one.role for one in call.channels)}
    ]


def _people(speakers: str | None, enrol: Mapping[str, str]) -> list[str]:
    """The settings that --speakers and --enrol stand for."""
    if speakers not in (None, "auto", "off", "final") and not speakers.isdecimal():
        raise UsageError(f"--speakers {speakers}: must be auto, off, final, or how many at most")
    if speakers == "off" and enrol:
        raise UsageError("--enrol is for people who are told apart: not with --speakers off")
    found = [f"audio.speakers.enrol.{role}={json.dumps(file)}" for role, file in enrol.items()]
    if speakers and speakers.isdecimal():
        found.append(f"audio.speakers.max={speakers}")
    return found or ([f"audio.speakers={'off' if speakers == 'off' else 'auto'}"] if speakers else [])


def _speakers(options: Sequence[str] | None, transcript: Path | None) -> dict[str, str]:
    if options and transcript is None:
        raise UsageError("--speaker says who is who in a transcript: give it with --transcript")
    return _pairs(options, "--speaker")


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        stderr_note(f"bcaf-stream: {note}")


@contextmanager
def _telling() -> Iterator[list[str]]:
    """Notes that are told when the rest is done, also when it failed."""
    notes: list[str] = []
    try:
        yield notes
    finally:
        _note(notes)


def _text_mode(text: TextOption, transcript: Path | None) -> Literal["asr", "given", "none"]:
    return "given" if transcript else text


register(app)
app.command()(monitor)
app.command()(report)
app.add_typer(bridge_app, name="bridge")
app.add_typer(alerts_app, name="alerts")


def main() -> None:
    run(app, "bcaf-stream")


def process() -> None:
    """The command as a process of its own: what torch makes at its start is neither searched for garbage nor taken
    apart at the end, which costs as much as ten seconds of a call and 130 MB."""
    gc.set_threshold(GARBAGE_AFTER)
    try:
        main()
    except SystemExit as done:
        leave(done)


if __name__ == "__main__":
    process()
