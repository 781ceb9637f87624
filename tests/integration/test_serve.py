"""The metrics server over real sockets, beside real trainers, and against clients that mean no good."""

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from harness.clock import SYSTEM
from harness.errors import UsageError
from harness.metrics import server as serving
from harness.metrics.collector import TrainerCollector
from harness.metrics.listening import ListenError, PortTakenError, read_token
from harness.metrics.server import Server
from harness.watch.ranks import Ranks
from tests.support import views
from tests.support.emitting import emitting
from tests.support.wait import wait_for


@pytest.fixture
def start():
    """Start a server of a given view; all are closed at the end."""
    servers = []

    def make(view=None, **options):
        shown = views.view() if view is None else view
        made = shown if callable(shown) else lambda: shown
        servers.append(Server(TrainerCollector(made), made, **{"port": 0, **options}))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def get(server, path="/metrics", method="GET", timeout=20.0, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def series(body, name):
    return {
        sample.labels.get("rank"): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == name
    }


# ---- what is answered


def test_metrics_in_the_format_that_is_asked_for(start):
    server = start()
    status, body, headers = get(server)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert series(body, "trainer_step") == {"0": 128}
    _, body, headers = get(
        server, Accept="application/openmetrics-text; version=1.0.0", Accept_Encoding="gzip"
    )
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_a_selection_of_names(start):
    _, body, _ = get(start(), "/metrics?name[]=trainer_step")
    assert [line for line in body.decode().splitlines() if not line.startswith("#")] == [
        'trainer_step{rank="0",run_id="run-1"} 128.0'
    ]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/..", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 200)],
)
def test_statuses(start, method, path, status):
    server = start()
    found, body, headers = get(server, path, method)
    assert found == status
    if method == "HEAD":
        assert body == b""
        assert int(headers["Content-Length"]) > 1000


def test_health_says_how_the_training_is_and_its_status_how_the_harness_is(start):
    now = [views.NOW]
    server = start(clock=lambda: now[0])
    status, body, _ = get(server, "/healthz")
    assert status == 200
    assert json.loads(body) == {
        "status": "running",
        "run_id": "run-1",
        "name": "quickstart",
        "attempt": 1,
        "stage": "train",
        "step": 128,
        "target_steps": 400,
        "stalled": False,
        "last_progress_age_seconds": 0.1,
        "stall_timeout_seconds": 6.0,
        "ranks": 1,
        "ranks_up": 1,
        "snapshot_age_seconds": 0.0,
    }
    now[0] += 31  # nobody has looked at the run for this long
    assert get(server, "/healthz")[0] == 503


def test_before_there_is_a_run(start):
    server = start(lambda: None)
    assert get(server)[:2] == (200, b"")
    assert get(server, "/healthz")[0] == 503


def test_a_snapshot_that_breaks_everything_is_an_answer_too(start):
    def broken():
        raise RuntimeError("no snapshot")

    server = start(broken)
    status, body, _ = get(server)
    assert (status, body) == (500, b"the metrics could not be made: RuntimeError: no snapshot\n")


# ---- who may ask, and where it listens


def test_a_token_has_to_be_shown(start):
    server = start(token="s3cret")
    assert get(server)[0] == 401
    assert get(server, Authorization="Bearer wrong")[0] == 401
    assert get(server, Authorization="Basic s3cret")[0] == 401
    assert get(server, "/healthz")[0] == 401
    assert get(server, Authorization="Bearer s3cret")[0] == 200


@pytest.mark.parametrize("token", ["Wörter-zählen", "voilà"])
def test_a_token_may_have_any_letters(start, token):
    server = start(token=token)
    assert get(server, Authorization=f"Bearer {token}".encode())[0] == 200
    assert get(server, Authorization=b"Bearer \xff")[0] == 401


def test_where_a_token_comes_from(tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert read_token(file, {"HARNESS_METRICS_TOKEN": "from-environment"}) == "from-file"
    assert read_token(None, {"HARNESS_METRICS_TOKEN": " from-environment\n"}) == "from-environment"
    assert read_token(None, {}) is None
    file.write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        read_token(file, {})
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none", {})


@pytest.mark.parametrize(
    ("address", "options", "warned"),
    [("127.0.0.1", {}, False), ("::1", {}, False), ("0.0.0.0", {}, True), ("0.0.0.0", {"token": "t"}, False)],
)
def test_whoever_listens_for_all_is_warned(address, options, warned):
    server = Server(TrainerCollector(lambda: None), lambda: None, address=address, port=0, **options)
    assert bool(server.warnings) == warned


def test_tls(start, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    server = start(certificate=(certificate, key))
    assert server.url.startswith("https://")
    trust = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=20, context=trust)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(UsageError, match="not a certificate"):
        Server(TrainerCollector(lambda: None), lambda: None, certificate=(key, certificate), port=0)


def test_a_taken_port_says_who_has_it(start):
    taken = start().port
    with pytest.raises(PortTakenError, match=f"127.0.0.1:{taken} is taken by pid {os.getpid()} ") as caught:
        start(port=taken)
    assert caught.value.pid == os.getpid()
    assert "python" in caught.value.command
    assert "--metrics-port" in caught.value.remedy


@pytest.mark.parametrize("address", ["192.0.2.1", "no such host", "a" * 300])
def test_an_address_that_is_not_ours_is_a_clear_error(start, address):
    with pytest.raises(ListenError, match="Name an address of this machine"):
        start(address=address)


# ---- clients that mean no good


def open_to(server, request=b""):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.sendall(request)
    return connection


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_half_requests_keep_nobody_waiting(start, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 600.0)  # so that it is not time that ends them
    server = start()
    get(server)
    before = resident_bytes()
    clients = []
    try:
        for _ in range(10):
            clients += [open_to(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n") for _ in range(30)]
            assert get(server)[0] == 200
        assert clients[0].recv(10) == b"", "the one that has dawdled longest makes room"
        assert resident_bytes() - before < 50_000_000
        assert threading.active_count() < 20
    finally:
        for client in clients:
            client.close()


def test_half_a_request_is_cut_off_after_a_while(start, monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.2)
    with open_to(start(), b"GET /metrics HT") as client:
        assert client.recv(100) == b""


@pytest.mark.parametrize(
    "request_bytes", [b"\r\n\r\n", b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / SPDY\r\n\r\n"]
)
def test_what_is_no_request_is_refused(start, request_bytes):
    server = start()
    with open_to(server, request_bytes) as client:
        assert client.recv(12) == b"HTTP/1.1 400"
    assert get(server)[0] == 200


def test_a_request_without_end_is_cut_off(start):
    server = start()
    with open_to(server) as client, pytest.raises(OSError):
        client.sendall(b"X: y\r\n" * 10_000_000)
    assert get(server)[0] == 200


class Huge(Collector):
    """More than the kernel buffers on any connection."""

    def collect(self):
        yield GaugeMetricFamily("huge", "x" * 20_000_000, value=1)


def test_clients_that_never_read_are_cut_off_and_hold_up_nobody(monkeypatch):
    monkeypatch.setattr(serving, "REPLY_SECONDS", 600.0)  # so that it is not time that ends them
    monkeypatch.setattr(serving, "CLOSE_SECONDS", 600.0)
    server = Server(Huge(), views.view, port=0)
    server.start()
    clients = []
    try:
        before = resident_bytes()
        for _ in range(2 * serving.MAX_REPLIES):
            clients.append(open_to(server, b"GET /metrics HTTP/1.1\r\n\r\n"))
        wait_for(lambda: len(server._replying) == serving.MAX_REPLIES, what="all places to be taken")
        assert len(get(server, timeout=60)[1]) > 20_000_000
        assert resident_bytes() - before < 600_000_000
    finally:
        for client in clients:
            client.close()
        server.close()


def test_who_asks_while_the_same_is_being_made_shares_it(start):
    made = []
    shown = views.view()

    def slow():
        made.append(threading.get_ident())
        time.sleep(0.3)
        return shown

    server = start(slow)
    clients = [threading.Thread(target=get, args=(server,)) for _ in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(made) < 10


# ---- the end of a run


def test_after_the_end_it_waits_to_be_scraped_once(start):
    server = start()
    get(server)  # one from before does not count
    assert not server.wait_scraped(0.05)
    scraped = []
    waiting = threading.Thread(target=lambda: scraped.append(server.wait_scraped(60.0)))
    waiting.start()
    wait_for(lambda: server._counts_from > 0)
    get(server, "/healthz")
    get(server, "/nothing")
    assert waiting.is_alive()
    wait_for(lambda: get(server) and not waiting.is_alive(), what="the wait to end with a scrape")
    assert scraped == [True]


def test_a_scrape_made_before_the_end_does_not_count_even_if_it_is_read_after(start):
    asked, go_on = threading.Event(), threading.Event()

    def slow():
        asked.set()
        go_on.wait(20)
        return views.view()

    server = start(slow)
    asked.clear()
    early = threading.Thread(target=get, args=(server,))
    early.start()
    assert asked.wait(20)
    assert not server.wait_scraped(0.0)
    late = threading.Thread(target=get, args=(server,))  # shares what is being made
    late.start()
    wait_for(lambda: len(server._replying) == 2, what="the second one to wait")
    go_on.set()
    early.join()
    late.join()
    assert not server._scraped.is_set()


def test_closing_cuts_open_connections_and_frees_the_port(start):
    server = start()
    client = open_to(server, b"GET /met")
    server.close()
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(10) == b""
    again = start(port=server.port)
    assert get(again)[0] == 200


# ---- beside trainers that cannot answer for themselves


@pytest.fixture
def beside(start):
    """A server of a run directory that is looked at on each scrape."""
    opened = []

    def make(run_dir):
        ranks = Ranks(run_dir, clock=SYSTEM, record=False)
        opened.append(ranks)
        return start(lambda: views.view(*ranks.poll(), taken_wall_seconds=time.time()))

    yield make
    for ranks in opened:
        ranks.close()


TRAINER = """
    import re
    emit.open(total_steps=100)
    emit.stage("train")
    for step in range(1, 6):
        emit.step(step, loss=1.0)
    say("ready")
"""
HOLDS_THE_GIL = 're.match(r"(a+)+$", "a" * 64 + "b")'


@pytest.mark.parametrize("how", ["holds the GIL in C", "is stopped"])
def test_a_trainer_that_cannot_answer_is_served_and_its_age_grows(tmp_path, beside, how):
    with emitting(
        TRAINER + ("    wait()" if how == "is stopped" else f"    {HOLDS_THE_GIL}"), tmp_path
    ) as trainer:
        trainer.hear("ready")
        if how == "is stopped":
            os.kill(trainer.pid, signal.SIGSTOP)
        server = beside(tmp_path)

        def age():
            body = get(server)[1]
            assert series(body, "trainer_up") == {"0": 1}
            assert series(body, "trainer_step") == {"0": 5}
            return time.time() - series(body, "trainer_last_progress_timestamp_seconds")["0"]

        first = age()
        wait_for(lambda: age() > first + 0.5, what="the age to grow")


def test_a_killed_trainer_is_down_and_has_not_finished(tmp_path, beside):
    with emitting(TRAINER + "    wait()", tmp_path) as trainer:
        trainer.hear("ready")
        server = beside(tmp_path)
        assert series(get(server)[1], "trainer_up") == {"0": 1}
        os.kill(trainer.pid, signal.SIGKILL)
        wait_for(lambda: series(get(server)[1], "trainer_up") == {"0": 0}, what="trainer_up to fall")
        body = get(server)[1]
        assert series(body, "trainer_finished") == {"0": 0}
        assert series(body, "trainer_step") == {"0": 5}  # what it had reached is still told


def test_a_trainer_that_closed_its_record_has_finished(tmp_path, beside):
    with emitting(TRAINER + "    emit.close()", tmp_path) as trainer:
        trainer.process.wait(timeout=60)
        server = beside(tmp_path)
        assert series(get(server)[1], "trainer_finished") == {"0": 1}
