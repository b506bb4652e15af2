"""bcaf-serve: bring the deployment up, look at it, bring it down, and the demo."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.process_locks import is_running, state_folder
from actors.status import cancel_drain, end, read_status
from actors.status import drain as drain_deployment
from bcaf_stream.config import load_config
from bcaf_stream.console import cell, run, whole_file
from bcaf_stream.errors import DeploymentError, UsageError

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False
)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="a YAML file; see configs/serve")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="dotted.key=value, over the file")]
INSECURE = ("hub.bus.insecure=true", "ingest.link.insecure=true")  # the other servers have secrets of their own
Name = Annotated[str, typer.Option(help="the deployment's name")]


@app.callback()
def main_help() -> None:
    """Run the streaming analyzer on Ray: sound in at one socket, emotion events out at another."""


@app.command()
def up(
    config: ConfigFile = None,
    set_: Overrides = None,
    address: Annotated[str | None, typer.Option(help="an existing Ray cluster; default: a local Ray")] = None,
    foreground: Annotated[bool, typer.Option(help="stay, and go down with Ctrl-C (containers, systemd)")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="off this machine, anybody may read events and send sound")
    ] = False,
    endpoints: Annotated[
        Path | None, typer.Option(help="a file that says, as JSON, where each server is reached; kept up to date")
    ] = None,
) -> None:
    """Bring the deployment up and say where to send sound and listen to events."""
    from actors.config import ServeConfig  # loads in seconds: not for --help and status
    from actors.ports import chosen_ports

    overrides = [*(INSECURE if insecure else []), *(set_ or []), *([f"ray.address={address}"] if address else [])]
    overrides += [f"endpoints_file={endpoints.absolute()}"] if endpoints else []
    serve = load_config(ServeConfig, config, overrides)
    name = serve.name
    if is_running(name):
        raise DeploymentError(f"a deployment named {name} is running: bcaf-serve down --name {name}")
    command = _command("supervise", name, config, [*overrides, *chosen_ports(serve)], foreground)
    if foreground:
        sys.stdout.flush()
        os.execv(command[0], command)  # the supervisor stays small: it has nothing of what the check loaded
    _announce(name, _start_in_background(name, command))


@app.command(hidden=True)
def supervise(
    config: ConfigFile = None,
    set_: Overrides = None,
    name: Name = "bcaf",
    foreground: Annotated[bool, typer.Option()] = False,
    adopt: Annotated[bool, typer.Option(help="the deployment has lost its supervisor")] = False,
) -> None:
    """Keep a driver running: what `up` starts."""
    from actors.supervisor import Supervisor

    drive, standby = _supervised(name, config, set_ or [], foreground)
    raise typer.Exit(Supervisor(name, drive, None if foreground else standby, adopt).run())


@app.command(hidden=True)
def stand_by(config: ConfigFile = None, set_: Overrides = None, name: Name = "bcaf") -> None:
    """Be the next supervisor: what the supervisor starts."""
    from actors.supervisor import Supervisor, wait_for_vacancy

    lock = wait_for_vacancy(name)
    supervisor = Supervisor(name, *_supervised(name, config, set_ or [], False), adopt=True)
    lock.release()  # it is its successor's
    raise typer.Exit(supervisor.run())


@app.command(hidden=True)
def drive(
    config: ConfigFile = None,
    set_: Overrides = None,
    name: Name = "bcaf",
    foreground: Annotated[bool, typer.Option()] = False,
    again: Annotated[bool, typer.Option(help="it has been up before")] = False,
) -> None:
    """Hold Ray and the actors: what the supervisor starts."""
    from actors.config import ServeConfig
    from actors.driver import Driver

    successors: list[subprocess.Popen[bytes]] = []

    def orphaned() -> bool:
        if foreground:
            return False  # whoever runs the supervisor in the foreground starts it again, or not
        if not successors or successors[-1].poll() is not None:
            command = [*_command("supervise", name, config, set_ or [], foreground), "--adopt"]
            successors[:] = [subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)]
        return True

    serve = load_config(ServeConfig, config, set_ or [])
    Driver(serve, again, lambda endpoints: _announce(name, endpoints), orphaned).run()


@app.command()
def status(
    name: Name = "bcaf",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Show the actors of a running deployment. Exit code 1 when there is none, or it is not wholly up."""
    report = read_status(name)
    if report is None:
        if is_running(name):
            where = state_folder(name)
            raise DeploymentError(f"{name} is running, and has not reported to {where} yet: try again in a second")
        raise DeploymentError(f"no deployment named {name} is running here: bcaf-serve up")
    if as_json:
        print(json.dumps(report))
    else:
        _show(report)
    if report["state"] != "up":
        raise typer.Exit(1)


@app.command()
def down(name: Name = "bcaf", timeout: Annotated[float, typer.Option(help="seconds to wait")] = 60.0) -> None:
    """End a deployment: running calls are closed, what was heard of them is published and journalled."""
    end(name, timeout)
    print(f"{name} is down")


@app.command()
def drain(
    actor: Annotated[str | None, typer.Argument(help="one replica of ingest, as ingest-1; default: all")] = None,
    name: Name = "bcaf",
    timeout: Annotated[float, typer.Option(min=0, help="seconds to wait for running calls")] = 600.0,
    cancel: Annotated[bool, typer.Option("--cancel", help="take new calls again")] = False,
) -> None:
    """Let no new call begin, and wait until the running ones have ended. Exit code 1 when some have not.

    Of one of several replicas, the calls that can go on at another one do so at once.
    """
    who = f"{actor} of {name}" if actor else name
    if cancel:
        if not is_running(name):
            raise DeploymentError(f"no deployment named {name} is running here")
        cancel_drain(name, actor)
        print(f"{who} takes new calls")
    else:
        drain_deployment(name, timeout, actor)
        print(f"{who} is drained: no call is running, and none begins (bcaf-serve down, or drain --cancel)")


@app.command()
def reload(
    checkpoint: Annotated[str, typer.Option(help="compact, compact-open, a folder on every node, or a hub id")],
    name: Name = "bcaf",
    timeout: Annotated[float, typer.Option(min=0, help="seconds to wait")] = 120.0,
) -> None:
    """Judge by other weights from now on, without losing a call.

    They are loaded beside the present ones and judge the demo call first. Exit code 1 when they do not pass; then
    nothing is changed.
    """
    from actors.reload import reload as reload_deployment

    folder = Path(checkpoint).expanduser()
    print(reload_deployment(name, str(folder.absolute()) if folder.is_dir() else checkpoint, timeout))


@app.command()
def load(
    calls: Annotated[int, typer.Option(min=1, help="at once")] = 4,
    minutes: Annotated[float, typer.Option(min=0.1, help="of each call")] = 1.0,
    audio: Annotated[Path | None, typer.Option(help="a folder of sound; default: the demo call")] = None,
    text: Annotated[str, typer.Option(help="given (the demo call has its words), asr or none")] = "given",
    jitter: Annotated[float, typer.Option(min=0, help="ms by which sound comes late, at most")] = 30.0,
    kill: Annotated[str | None, typer.Option(help="every=10s: end one actor after the other")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER, as p95_ms=700; repeatable")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="write the report there")] = None,
    name: Name = "bcaf",
    to: Annotated[str | None, typer.Option(help="the audio address of a deployment elsewhere")] = None,
    events: Annotated[str | None, typer.Option(help="its address for events")] = None,
    replay: Annotated[str | None, typer.Option(help="its address for replays")] = None,
) -> None:
    """Play calls at real time against a running deployment, and report. Exit code 1 when a limit is passed."""
    from actors import load as loading
    from actors.load_report import LoadPlan, LoadReport

    limits = LoadReport.check_limits(limit or [])
    elsewhere = {key: value for key, value in (("audio", to), ("events", events), ("replay", replay)) if value}
    if 0 < len(elsewhere) < 3:
        raise UsageError("load: a deployment elsewhere needs --to, --events and --replay")
    if audio is not None and text == "given":
        raise UsageError("load: --audio has no words: add --text asr or --text none")
    if text not in ("given", "asr", "none"):
        raise UsageError(f"load: --text {text}: given, asr or none")
    status = elsewhere or loading.find_deployment(read_status(name), name)
    material = loading.demo_material() if audio is None else loading.folder_material(audio)
    plan = LoadPlan(calls, minutes, text, jitter, _every_s(kill))  # type: ignore[arg-type]
    look = None if elsewhere else lambda: read_status(name)
    report = loading.LoadTest(plan, material, status, look, lambda line: print(line, file=sys.stderr)).run()
    if json_ is not None:
        with whole_file(json_, "--json") as draft:
            draft.write_text(report.to_json(), encoding="utf-8")
    Console().print(report.table())
    passed = report.passed_limits(limits)
    for line in passed:
        print(f"bcaf-serve: {line}", file=sys.stderr)
    raise typer.Exit(1 if passed else 0)


def _every_s(kill: str | None) -> float | None:
    if kill is None:
        return None
    try:
        return float(kill.removeprefix("every=").removesuffix("s"))
    except ValueError:
        raise UsageError(f"load: --kill {kill}: give every=10s") from None


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="where the events go, as JSON lines")] = Path("demo-events.jsonl"),
    speed: Annotated[float, typer.Option(min=0, help="1 = as it was spoken; 0 = as fast as it goes")] = 1.0,
    monitor: Annotated[bool, typer.Option("--monitor", help="serve the page of the call, until Ctrl-C")] = False,
    set_: Overrides = None,
) -> None:
    """Play the call that ships with the project through a deployment of its own, and show its emotions."""
    from actors.demo import play

    play(output, speed, monitor, set_ or ())


def _show(report: dict[str, Any]) -> None:
    age = (time.time_ns() - report["reported_at"]) / 1e9
    table = Table(title=cell(f"{report['name']}: {report['state']} ({age:.0f} s ago)"), title_justify="left")
    for column in ("actor", "alive", "what it says"):
        table.add_column(column)
    for actor, stats in report.get("actors", {}).items():
        says = ", ".join(f"{key} {value}" for key, value in stats.items() if key != "alive")
        table.add_row(*map(cell, (actor, "yes" if stats["alive"] else "NO", says)))
    console = Console()
    console.print(table)
    if "reason" in report:
        console.print(cell(f"{report['state']}: {report['reason']}"))
    for key in ("audio", "events", "replay", "metrics", "monitor", "model"):
        if key in report:
            console.print(cell(f"{key:<11} {report[key]}"))
    for protocol, address in _other_servers(report):
        console.print(cell(f"{protocol:<11} {address}"))


def _announce(name: str, endpoints: dict[str, Any]) -> None:
    print(f"{name} is up: model {endpoints['model']}")
    for caveat in endpoints["caveats"]:
        print(f"bcaf-serve: {caveat}", file=sys.stderr)
    print(f"  bcaf-stream listen --connect {endpoints['events']}")
    print(f"  bcaf-stream send CALL.wav --to {endpoints['audio']}")
    for protocol, address in _other_servers(endpoints):
        print(f"  {protocol}: {address}")
    if endpoints.get("monitor"):
        print(f"  monitor: {endpoints['monitor']}")
    sys.stdout.flush()


def _other_servers(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Protocols and addresses beside `audio`; of several replicas of ingest all, each with its name and node."""
    found = [each for each in report.get("endpoints", ()) if each["replica"] != "hub"]
    if len({each["replica"] for each in found}) > 1:
        where = [f"{each['address']} ({each['replica']} on node {each['node'][:8]})" for each in found]
        return [(each["protocol"], shown) for each, shown in zip(found, where, strict=True)]
    return [(protocol, address) for protocol, address in report.get("servers", {}).items() if protocol != "link"]


def _command(what: str, name: str, config: Path | None, overrides: list[str], foreground: bool) -> list[str]:
    command = [sys.executable, "-m", "actors.cli", what, "--name", name]
    command += ["--config", str(config)] if config else []
    for override in overrides:
        command += ["--set", override]
    return [*command, *(["--foreground"] if foreground else [])]


def _supervised(
    name: str, config: Path | None, overrides: list[str], foreground: bool
) -> tuple[list[str], list[str]]:
    """The commands that a supervisor runs: the driver and the standby."""
    drive = _command("drive", name, config, overrides, foreground)
    return drive, _command("stand-by", name, config, overrides, False)


def _start_in_background(name: str, command: list[str]) -> dict[str, Any]:
    """Start the supervisor as a process of its own and wait until the deployment is up, or says why not."""
    log = state_folder(name) / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        while process.poll() is None:
            report = read_status(name)
            if report and report["state"] == "up":
                return report
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.terminate()  # what whoever started it does not want any more goes down again
        process.wait()
        raise
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    said = [line.removeprefix("bcaf-serve: ") for line in lines if line.startswith("bcaf-serve: ")]
    raise DeploymentError((said or lines or [f"it ended with code {process.returncode}"])[-1])


def main() -> None:
    run(app, "bcaf-serve")


if __name__ == "__main__":
    main()
