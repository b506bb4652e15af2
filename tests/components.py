"""Real parts outside the package that some tests run against: what each is, whether it is here, how to get it.

A test says `@needs("ffmpeg")`, a fixture `require("redis-server")`. Where the part is missing the test is skipped,
and the end of the run says in a line what was not tested. With BCAF_TEST_EVERYTHING=1, as in CI, it fails instead.
"""

import ctypes.util
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRICT = os.environ.get("BCAF_TEST_EVERYTHING") == "1"


@dataclass(frozen=True, slots=True)
class Component:
    """`way`: how to get it; `optional`: not even CI has it, so its absence fails nothing."""

    present: Callable[[], bool]
    way: str
    optional: bool = False


def _program(*names: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(name) for name in names)


def _debian(package: str) -> str:
    return f"apt-get install {package}"


COMPONENTS = {
    "ffmpeg": Component(_program("ffmpeg"), _debian("ffmpeg")),
    "nc": Component(_program("nc"), _debian("netcat-openbsd")),
    "openssl": Component(_program("openssl"), _debian("openssl")),
    "gstreamer": Component(
        _program("gst-launch-1.0"),
        _debian("gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"),
    ),
    "chromium": Component(_program("chromium", "google-chrome"), _debian("chromium")),
    "redis-server": Component(_program("redis-server"), _debian("redis-server")),
    "postgresql": Component(lambda: any(Path("/usr/lib/postgresql").glob("*/bin/initdb")), _debian("postgresql")),
    "node": Component(lambda: bool(shutil.which("node") and shutil.which("npm")), _debian("nodejs npm")),
    "portaudio": Component(
        lambda: (
            sys.platform == "linux"
            and importlib.util.find_spec("sounddevice") is not None
            and ctypes.util.find_library("portaudio") is not None
        ),
        _debian("libportaudio2"),
    ),
    "moonshine": Component(
        lambda: importlib.util.find_spec("moonshine_voice") is not None, "Linux with glibc 2.34 or newer"
    ),
    "root": Component(
        lambda: sys.platform == "linux" and os.geteuid() == 0,
        "run as root: a small disk is mounted",
        optional=True,
    ),
    "shared data": Component(
        (ROOT / "../shared/data").is_dir, "put the corpora under ../shared/data", optional=True
    ),
}


def is_present(name: str) -> bool:
    return COMPONENTS[name].present()


def require(name: str, reason: str = "") -> None:
    """Skip the test that is running where the component is missing or, for `reason`, of no use.

    Fails instead in CI, which has it.
    """
    if not reason and is_present(name):
        return
    component = COMPONENTS[name]
    message = f"needs {name}: {reason or component.way}"
    if STRICT and not component.optional:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def needs(name: str) -> pytest.MarkDecorator:
    """Mark a test, or by `pytestmark` a whole file, as one that runs against the component."""
    assert name in COMPONENTS
    return pytest.mark.needs(name)
