"""A hub in trouble: full disks, folders that cannot be written, clocks set back. It stops rather than lies."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bcaf_stream.errors import EventError
from bcaf_stream.events.event import Event
from bcaf_stream.events.hub import EventHub, EventHubConfig
from bcaf_stream.events.journal.config import JournalConfig
from bcaf_stream.events.journal.journal import Journal
from bcaf_stream.events.publisher import BusConfig
from bcaf_stream.events.replay.server import ReplayConfig
from bcaf_stream.events.subscriber import EventSubscriber
from tests.components import require
from tests.waiting import until

ROOT = Path(__file__).parents[2]
WAIT_S = 20.0


def hub_config(folder: Path) -> EventHubConfig:
    return EventHubConfig(
        journal=JournalConfig(path=folder / "events.sqlite"),
        bus=BusConfig(bind="tcp://127.0.0.1:*"),
        replay=ReplayConfig(bind="tcp://127.0.0.1:*"),
        heartbeat_s=0.2,
    )


def event(seq: int) -> Event:
    return Event(type="alert", id=f"a-{seq}", call="a", seq=seq, emitted_at=1, text="word " * 100)


def in_a_process(script: str, *arguments: object) -> dict[str, object]:
    """Run a script, whose last line of output is JSON; it must leave nothing on its error output."""
    head = "import json, os, sys\nfrom pathlib import Path\nfrom tests.integration.test_hub_trouble import *\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


FULL = """
    import resource, signal
    folder, way = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    filler = folder / "filler"

    def fill():
        if way == "quota":  # no file may grow beyond this
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
        else:
            with filler.open("wb") as file:
                free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
                file.write(bytes(max(0, free - 300_000)))

    def make_room():
        if way == "quota":
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            filler.unlink()

    acknowledged, told, got, error = [], 0, [], ""
    with EventHub(hub_config(folder)) as hub:
        with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber:
            fill()
            for _ in range(2):
                try:
                    while True:
                        batch = [event(len(acknowledged) + n) for n in range(20)]
                        hub.publish(batch).result(WAIT_S)
                        acknowledged += [e.id for e in batch]
                        assert len(acknowledged) < 10_000
                except EventError as failure:
                    error = str(failure)
            full_at = len(acknowledged)
            for e in subscriber.events(1.0):
                told += e.type == "degraded"
                got += [e.id] * (e.type == "alert")
            assert got == acknowledged, "what was not acknowledged is not published"
            make_room()
            hub.publish(batch).result(WAIT_S)
            acknowledged += [e.id for e in batch]
            got += [e.id for e in subscriber.events(1.0) if e.type == "alert"]
            stats = hub.stats()
            assert "not_ready" not in stats
    with Journal(hub_config(folder).journal) as journal:
        stored = [e.id for e in journal.read()]
        sound = journal.query("PRAGMA integrity_check") == [("ok",)]
    found = {"same": stored == got == acknowledged, "sound": sound, "full_at": full_at, "error": error}
    print(json.dumps({**found, "told": told, "failed": stats["failures"]}))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        require("root", "this user may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def check_full(found: dict[str, object], reason: str) -> None:
    assert found["same"]
    assert found["sound"]
    assert int(str(found["full_at"])) > 0
    assert (found["told"], found["failed"]) == (2, 2)
    assert reason in str(found["error"])


def test_a_full_disk_stops_the_hub_until_there_is_room(small_disk: Path):
    check_full(in_a_process(FULL, small_disk, "disk"), "the disk is full: free some space")


def test_a_quota_stops_the_hub_until_it_is_raised(tmp_path: Path):
    check_full(in_a_process(FULL, tmp_path, "quota"), "the disk failed: check its space")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    with Journal(hub_config(tmp_path).journal) as journal:
        journal.append([event(0)])
    script = """
        if os.getuid() == 0:
            os.setuid(65534)  # root may write everywhere
        try:
            EventHub(hub_config(Path(sys.argv[1])))
        except EventError as error:
            print(json.dumps({"error": str(error)}))
    """
    tmp_path.chmod(0o500)
    message = str(in_a_process(script, tmp_path)["error"])
    tmp_path.chmod(0o700)
    assert message == f"journal {tmp_path}/events.sqlite: cannot be written: Permission denied"


def test_a_journal_that_becomes_read_only_stops_the_hub_and_is_told(tmp_path: Path):
    with EventHub(hub_config(tmp_path)) as hub:
        hub.publish([event(0)]).result(WAIT_S)
        with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber:
            assert subscriber.receive(WAIT_S) == replace(event(0), offset=1)
            hub.journal.query("PRAGMA query_only = ON")  # SQLite answers as on a disk that was remounted read-only
            with pytest.raises(EventError, match="it is read-only: change its permissions"):
                hub.publish([event(1)]).result(WAIT_S)
            told = subscriber.receive(WAIT_S)
            assert (told.type, told.degraded) == ("degraded", ("journal",))
            assert (hub.stats()["ready"], "read-only" in hub.stats()["not_ready"]) == (False, True)
            hub.journal.query("PRAGMA query_only = OFF")
            # It tries by itself, before anybody hands it an event.
            until(lambda: "not_ready" not in hub.stats(), WAIT_S)
            assert hub.publish([event(1)]).result(WAIT_S) == [2]
            assert subscriber.receive(WAIT_S).seq == 1


@dataclass
class Clock:
    now: int = 1_000 * 10**9

    def __call__(self) -> int:
        return self.now


def test_a_clock_that_jumps_back_changes_no_order_and_loses_nothing(tmp_path: Path):
    clock = Clock()
    with EventHub(hub_config(tmp_path), clock=clock) as hub:
        for seq in range(3):
            assert hub.publish([event(seq)]).result(WAIT_S) == [seq + 1]
            clock.now -= 400 * 10**9
        stored = [entry.stored_at for entry in hub.journal.page(0)]
        assert stored == sorted(stored)
        with EventSubscriber(hub.bus.endpoint, hub.replay.endpoint, start="start") as subscriber:
            assert [subscriber.receive(WAIT_S).seq for _ in range(3)] == [0, 1, 2]
            hub.publish([event(3)]).result(WAIT_S)
            assert subscriber.receive(WAIT_S).seq == 3
    with EventHub(hub_config(tmp_path), clock=clock) as hub:  # started again, and the clock is still behind
        assert hub.publish([event(4)]).result(WAIT_S) == [5]
        assert hub.journal.epoch == 2


def test_a_damaged_journal_is_refused_with_the_command_that_helps_and_the_command_helps(tmp_path: Path):
    config = hub_config(tmp_path)
    with Journal(config.journal) as journal:
        for at in range(0, 1000, 100):
            journal.append([event(n) for n in range(at, at + 100)])
    path = config.journal.path
    with Journal(config.journal) as journal:
        journal.query("UPDATE epochs SET ended_at = NULL")  # as a crash leaves it
        journal.database._is_writer = False
    data = bytearray(path.read_bytes())
    middle = len(data) // 8192 * 4096
    data[middle : middle + 8192] = os.urandom(8192)
    path.write_bytes(data)
    with pytest.raises(EventError, match="it is damaged: `bcaf-stream repair --journal FILE`") as refused:
        EventHub(config)
    assert str(refused.value).count("\n") == 0
    command = [sys.executable, "-m", "bcaf_stream.cli.main", "repair", "--journal", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, lost = (int(done.stdout.split()[at]) for at in (2, 5))
    assert (kept + lost, done.stdout.count("\n")) == (1000, 1)
    with EventHub(config) as hub:
        assert hub.publish([event(1000)]).result(WAIT_S) == [1001]
        assert len(list(hub.journal.read())) == kept + 1
