"""Names by which a server may be asked for, and pages that may ask."""

import pytest

from bcaf_stream.ingest.security import Access, ServerConfig

ACCESS = Access(ServerConfig(port=0, hosts=("Calls.example.org",)))


OURS = (
    "localhost LOCALHOST:80 localhost. a.localhost:1 127.0.0.1 [::1]:8080 192.168.1.5:8767 calls.example.org:443"
)
OTHERS = """evil.example evil.example:8767 localhost.evil.example 127.0.0.1.evil.example x@localhost localhost:port
localhost/ evil.example#localhost evil.example\\@localhost [::1 localhost:1:2 sub.calls.example.org
evilcalls.example.org localhost,evil.example"""


@pytest.mark.parametrize("host", OURS.split())
def test_names_of_this_server(host: str):
    assert ACCESS.host_allowed(host)
    assert ACCESS.origin_allowed(f"http://{host}", host)
    assert not ACCESS.origin_allowed("http://evil.example", host)


@pytest.mark.parametrize("host", [*OTHERS.split(), "", None, " localhost", "localhost ", "lo\ncalhost"])
def test_names_that_anybody_could_own(host: str | None):
    assert not ACCESS.host_allowed(host)
    assert not ACCESS.origin_allowed(f"http://{host}", "localhost")


@pytest.mark.parametrize("origin", ["", "null", "localhost", "file://", "ftp://localhost", "://localhost"])
def test_what_is_no_page(origin: str):
    assert not ACCESS.origin_allowed(origin, "localhost")


def test_a_page_elsewhere_may_ask_where_its_name_is_configured():
    assert ACCESS.origin_allowed("https://calls.example.org", "127.0.0.1:8767")
    assert not ACCESS.origin_allowed("http://localhost:3000", "localhost:8767"), "another server of this machine"
