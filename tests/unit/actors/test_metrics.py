"""Metrics: what is counted of events, how samples are put together and served, what configs/deploy asks for."""

import contextlib
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from actors import metrics
from actors.metrics import EMOTION, EVERYWHERE, HUB, INGEST, Restarts, count_events, kind_of, merged, snapshot
from actors.metrics_server import CONNECTIONS, REQUEST_S, MetricsConfig, MetricsServer
from bcaf_stream.errors import DeploymentError
from bcaf_stream.events.writer import EventWriter
from bcaf_stream.types import Call, Channel, EmotionPrediction, Utterance

DEPLOY = Path(__file__).parents[3] / "configs" / "deploy"
OF_THE_DRIVER = {"bcaf_actor_up", "bcaf_actor_restarts_total"}


def value(name: str, **labels: str) -> float:
    return INGEST.get_sample_value(name, labels) or 0.0


def events():
    call = Call("c1", (Channel("customer", "customer"),))
    writer = EventWriter(call, "compact-12345678", clock=lambda: 2_500_000_000)
    utterance = Utterance(
        call="c1",
        channel="customer",
        role="customer",
        index=0,
        start_ms=0,
        end_ms=900,
        samples=None,
        text=None,
        text_source="none",
        speech_ended_at=2_000_000_000,
    )
    labels = ("anger", "neutral")
    prediction = EmotionPrediction(
        labels=labels, probs=(0.7, 0.3), audio_probs=None, text_probs=None, modalities=("audio",)
    )
    return [
        writer.start(),
        writer.final(utterance, prediction),
        writer.degraded("crosstalk: channel a also carries the sound of b (3 ms)"),
    ]


def test_events_are_counted_by_what_they_say():
    before = value("bcaf_utterances_total", emotion="anger", role="customer")
    latency = {"kind": "final", "text_source": "none"}
    sum_before = value("bcaf_speech_to_event_seconds_sum", **latency)
    degraded = value("bcaf_degraded_total", reason="crosstalk")
    count_events(events(), now_ns=2_600_000_000)
    assert value("bcaf_utterances_total", emotion="anger", role="customer") == before + 1
    assert value("bcaf_speech_to_event_seconds_sum", **latency) - sum_before == pytest.approx(0.6)
    assert value("bcaf_degraded_total", reason="crosstalk") == degraded + 1


def test_a_reason_becomes_one_of_few_labels_without_names_and_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_kinds", set())
    assert kind_of("overload: no interim results") == "overload"
    assert kind_of("12.5 s of sound lost") == kind_of("3 s of sound lost") == "N s of sound lost"
    kinds = {kind_of(f"{first}{second}") for first in ascii_letters for second in ascii_letters}
    assert len(kinds) <= metrics.MOST_REASONS + 1
    assert "other" in kinds


def test_what_an_operator_is_promised_is_there():
    found = {f.name: f.type for kind in (EVERYWHERE, INGEST, EMOTION, HUB) for f in kind.collect()}
    promised = {
        "gauge": "calls_active queue_depth journal_offset subscriber_lag_events loop_lag_seconds model_info",
        "counter": "audio_seconds audio_gap_seconds degraded calls_refused utterances",
        "histogram": "speech_to_event_seconds stage_seconds batch_audio_seconds batch_padding_ratio confidence",
    }
    for kind, names in promised.items():
        assert {name: found.get(f"bcaf_{name}") for name in names.split()} == dict.fromkeys(names.split(), kind)
    assert (metrics.LATENCY_S[0], metrics.LATENCY_S[-1]) == (0.05, 5.0)


def test_no_label_of_any_metric_can_hold_a_call_or_its_words():
    allowed = {
        "kind",
        "text_source",
        "stage",
        "protocol",
        "reason",
        "emotion",
        "role",
        "where",
        "name",
        "sha256",
        "le",
    }
    for registry in (EVERYWHERE, INGEST, EMOTION, HUB):
        for family in registry.collect():
            for sample in family.samples:
                assert set(sample.labels) <= allowed, sample.name


def test_the_samples_of_all_actors_stand_side_by_side_and_restarts_are_counted():
    count_events(events(), now_ns=2_600_000_000)
    first, restarts = snapshot(INGEST), Restarts()
    restarts.see({"ingest": first, "hub": None})
    restarts.see({"ingest": first._replace(instance="another"), "hub": None})
    families = {family.name: family for family in merged({"ingest": first, "hub": None}, restarts.counts)}
    up = {sample.labels["actor"]: sample.value for sample in families["bcaf_actor_up"].samples}
    assert up == {"ingest": 1.0, "hub": 0.0}
    assert [s.value for s in families["bcaf_actor_restarts"].samples if s.labels["actor"] == "ingest"] == [1.0]
    assert all(sample.labels["actor"] == "ingest" for sample in families["bcaf_utterances"].samples)


@pytest.fixture
def trouble() -> list[str]:
    return []


@pytest.fixture
def server(trouble: list[str]) -> Iterator[MetricsServer]:
    count_events(events(), now_ns=2_600_000_000)
    collect = lambda: merged({"ingest": snapshot(INGEST)}, {})  # noqa: E731
    server = MetricsServer(MetricsConfig(port=0), collect, lambda: trouble[0] if trouble else None)
    yield server
    server.close()


def port_of(server: MetricsServer) -> int:
    return int(server.endpoint.split(":")[2].removesuffix("/metrics"))


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    url = server.endpoint.removesuffix("/metrics") + path
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_prometheus_reads_what_is_served(server: MetricsServer):
    status, text = get(server, "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 200
    assert {"bcaf_speech_to_event_seconds", "bcaf_utterances", "bcaf_actor_up"} <= set(families)
    assert families["bcaf_speech_to_event_seconds"].type == "histogram"
    assert families["bcaf_utterances"].type == "counter"


def test_probes_say_whether_it_works_and_why_not(server: MetricsServer, trouble: list[str]):
    assert get(server, "/livez") == get(server, "/readyz") == (200, "ok\n")
    trouble.append("hub: no room on the disk")
    assert get(server, "/readyz") == (503, "hub: no room on the disk\n")
    assert get(server, "/livez")[0] == 200
    assert get(server, "/else")[0] == 404


def test_a_crowd_that_says_nothing_keeps_no_probe_waiting(server: MetricsServer):
    address = ("127.0.0.1", port_of(server))
    with contextlib.ExitStack() as crowd:
        for number in range(3 * CONNECTIONS):
            connection = crowd.enter_context(socket.create_connection(address, timeout=10))
            if number % 3 == 0:  # some begin to ask, and never end
                with contextlib.suppress(OSError):
                    connection.sendall(b"GET /livez HTTP/1.1\r\n")
        begun = time.monotonic()
        assert get(server, "/livez") == (200, "ok\n")
        assert time.monotonic() - begun < REQUEST_S, "it waits for none of them"


def test_what_is_wrong_with_an_address_is_one_line(server: MetricsServer):
    port = port_of(server)
    with pytest.raises(DeploymentError, match=rf"metrics: 127\.0\.0\.1:{port} cannot be bound"):
        MetricsServer(MetricsConfig(port=port), list, lambda: None)
    with pytest.raises(ValidationError, match="insecure"):
        MetricsConfig(bind="0.0.0.0", port=9464)
    assert MetricsConfig(insecure=True, bind="0.0.0.0", port=9464).port == 9464


def served_names() -> set[str]:
    metrics.stage.labels("step"), metrics.queue_depth.labels("journal")
    names = set(OF_THE_DRIVER)
    for registry in (EVERYWHERE, INGEST, EMOTION, HUB):
        for family in registry.collect():
            names |= {family.name + suffix for suffix in _SUFFIXES[family.type]}
    return names


_SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana_dashboard.json").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus_rules.yaml").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_what_dashboard_and_alert_rules_ask_for_exists(expression: str):
    promql_parser.parse(expression)
    asked = set(re.findall(r"\bbcaf_\w+", expression))
    assert asked
    assert asked <= served_names()


def test_the_dashboard_shows_every_metric():
    shown = set(re.findall(r"\bbcaf_\w+", " ".join(expressions())))
    base = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in served_names()} <= base
