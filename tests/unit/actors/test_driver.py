"""What the driver keeps beside the deployment: a server whose thread has died is opened again."""

import threading
import time

import pytest

from actors.driver import living
from actors.metrics_server import MetricsConfig, MetricsServer
from bcaf_stream.loops import start_thread


class Page:
    """A server whose thread runs until it is told to break."""

    def __init__(self, breaks: threading.Event) -> None:
        self._thread = start_thread("page", lambda _: breaks.wait() and None)
        self.check = self._thread.check
        self.closed = False

    def close(self) -> None:
        self.closed = self._thread.end()


def test_a_server_whose_thread_has_died_is_closed_and_to_be_opened_again(caplog: pytest.LogCaptureFixture):
    breaks = threading.Event()
    page = Page(breaks)
    assert living(page) is page
    assert living(None) is None
    breaks.set()
    deadline = time.monotonic() + 10
    while living(page) is not None:
        assert time.monotonic() < deadline
    assert page.closed
    assert "page has stopped" in caplog.text


def test_a_server_of_metrics_that_is_asked_to_end_has_not_died():
    server = MetricsServer(MetricsConfig(port=0), list, lambda: None)
    assert living(server) is server
    server.close()
    assert living(server) is server
