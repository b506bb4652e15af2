"""The page that sends a browser's microphone: by a client that speaks as it does, and by a real browser."""

import asyncio
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from contextlib import AbstractAsyncContextManager

import numpy as np
from websockets.asyncio.client import connect

from bcaf_stream.ingest.protocols.browser import BrowserConfig
from bcaf_stream.ingest.servers import make_server
from bcaf_stream.ingest.transports.websocket_session import WebSocketServer
from tests.collecting_sink import CollectingSink
from tests.components import needs
from tests.waiting import eventually
from tests.websocket_clients import listening, run, status

HELLO = {"call": "m1", "channels": [["speaker", "speaker"]], "rate": 48000}


def microphone(sink: CollectingSink, **options: object) -> AbstractAsyncContextManager[WebSocketServer]:
    return listening(make_server(BrowserConfig(port=0, **options)), sink)


def fetch(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.headers["Content-Security-Policy"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", ""


def test_samples_come_as_they_were_sent():
    async def test() -> None:
        sink = CollectingSink()
        samples = np.random.default_rng(0).integers(-999, 999, 48000).astype("<i2")
        async with microphone(sink) as server, connect(server.endpoint.replace("http://", "ws://")) as client:
            await client.send(json.dumps(HELLO))
            assert json.loads(await client.recv()) == {"t": "accepted", "call": "m1"}
            for part in np.split(samples, 25):
                await client.send(part.tobytes())
            await client.send('{"end": true}')
            assert json.loads(await client.recv())["t"] == "closed"
            call = await sink.until("m1", "ended")
        assert call.begins[0].rate == 48000
        assert call.sound("speaker").tolist() == samples.tolist()

    run(test)


def test_the_page_and_who_may_use_it(tmp_path):
    secrets = tmp_path / "tokens"
    secrets.write_text("one")
    secrets.chmod(0o600)

    async def test() -> None:
        async with microphone(CollectingSink()) as server:
            site = server.endpoint.removesuffix("/")
            code, policy, page = await asyncio.to_thread(fetch, site + "/")
            assert code == 200
            assert "default-src 'none'" in policy
            assert "getUserMedia" in page
            assert (await asyncio.to_thread(fetch, site + "/other"))[0] == 404
            assert await status(server, headers={"Origin": site}) == 101
            assert await status(server, headers={"Origin": "https://elsewhere.example"}) == 403
        async with microphone(CollectingSink(), tokens=secrets) as server:
            site = server.endpoint.removesuffix("/")
            assert (await asyncio.to_thread(fetch, site + "/"))[0] == 401
            assert (await asyncio.to_thread(fetch, site + "/?token=one"))[0] == 200
            assert await status(server, "/?token=one", {"Origin": site}) == 101

    run(test)


BROWSER = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # which beeps once a second


@needs("chromium")
def test_a_real_browser_is_heard():
    async def test() -> None:
        sink = CollectingSink()
        async with microphone(sink) as server:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
                site = server.endpoint
                browser = await asyncio.create_subprocess_exec(
                    str(BROWSER), *FLAGS, f"--user-data-dir={profile}", site,
                    stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
                try:
                    await speak(browser, site, sink)
                finally:
                    browser.kill()
                    await browser.wait()
        (call,) = sink.calls.values()
        heard = call.sound("speaker")
        assert call.reason == "complete"
        assert len(heard) > call.begins[0].rate
        assert np.abs(heard).max() > 1000

    run(test)


async def speak(browser: asyncio.subprocess.Process, site: str, sink: CollectingSink) -> None:
    """Press the page's button, let it be heard for a while, and press it again; over the DevTools protocol."""
    assert browser.stderr is not None
    async for line in browser.stderr:
        if b"DevTools listening on " in line:
            break
    address = line.decode().split("listening on ")[1].strip().split("/")[2]
    pages: list[dict[str, str]] = []
    while not pages:
        found = await asyncio.to_thread(urllib.request.urlopen, f"http://{address}/json/list")
        with found:
            pages = [page for page in json.load(found) if page["url"] == site]
    async with connect(pages[0]["webSocketDebuggerUrl"]) as tools:

        async def press() -> None:
            pressed = {"value": False}
            while not pressed.get("value"):  # until the page is there
                call = {"expression": "!!toggle.onclick && (toggle.click(), true)", "userGesture": True}
                await tools.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": call}))
                pressed = json.loads(await tools.recv())["result"]["result"]

        await press()
        await eventually(lambda: any(len(call.sound("speaker")) >= 60_000 for call in sink.calls.values()))
        await press()
        await sink.until(next(iter(sink.calls)), "ended")
