"""A service as a process of its own: under a flood of silent connections, and when it is stopped."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from homes import SHARE, connect, make
from sides import HERE

from cli.demo import free_ports
from node.adhoc.session import Party
from node.node import Node
from node.partners import connecting
from node.transport import paths
from node.transport.addresses import split_address
from node.transport.client import Peer, PeerClient
from protocol import handshake
from protocol.connectid import ConnectId

FILES = 256  # descriptors of the service
SERVE = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
from cli.main import main
sys.exit(main())
"""
STOPPED_AT_ONCE = """
import os, signal, sys
from pathlib import Path
from node.node import Node
from node.service import serve
node = Node.open(Path(sys.argv[1]))
serve(node.home, ready=lambda address: os.kill(os.getpid(), int(sys.argv[2])))
os._exit(0)
"""
WAIT = 60.0
STOP_WITHIN = 15.0  # seconds; it takes two, and took ten and more while it waited for the partner
PATIENCE = 8.0  # less than the time after which a silent connection ends by itself


@contextmanager
def serving(home: Path, log: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", SERVE, "node", "serve", "--home", str(home)]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == 0


def ask_to_connect(node: Node, connect_id: ConnectId) -> None:
    """Connect as an honest requester does."""
    us = Party()
    with PeerClient(us, Peer(connect_id.address, connect_id.key, allowed=HERE), patience=PATIENCE) as client:
        hello = handshake.hello(connect_id, key=us.key, nonce=us.random(32))
        theirs = handshake.check_reply(
            handshake.Reply.decode(client.post(paths.CONNECT, hello.encode())), hello, connect_id
        )
        ours = replace(
            connecting.offer(node.project().scope, us.random(32)), key=us.key, project=us.random(16), address=""
        )
        request = handshake.request(
            connect_id, hello, ours, theirs, connection=us.random(16), made=us.now(), sign=us.sign
        )
        client.post(paths.CONNECT, request.encode())


@pytest.mark.two_nodes
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_silent_connections_keep_nobody_out(tmp_path: Path) -> None:
    address, home, log = f"127.0.0.1:{free_ports(1)[0]}", tmp_path / "home", tmp_path / "log"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 1_024:
        pytest.skip("this process may not open 300 connections")
    with Node.create(home, "Fern", listen=address, address=address) as node, ExitStack() as silent:
        connect_id = node.project().partners.connect_id()
        with serving(home, log) as process:
            for number in range(300):  # 300 from one address, then from many
                source = "127.0.0.2" if number < 150 else f"127.0.1.{number - 149}"
                one = socket.create_connection(split_address(address), timeout=WAIT, source_address=(source, 0))
                silent.enter_context(one)
                if number in (149, 299):
                    ask_to_connect(node, connect_id)
                    assert len(os.listdir(f"/proc/{process.pid}/fd")) < FILES - 32
        assert len(node.project().partners.rows()) == 2
    text = log.read_text()
    assert len(text) < 20_000
    assert not re.search("Traceback|Error", text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_stopped_the_moment_it_listens(tmp_path: Path, number: signal.Signals) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    Node.create(tmp_path / "home", "Fern", listen=address, address=address).close()
    command = [sys.executable, "-c", STOPPED_AT_ONCE, str(tmp_path / "home"), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_WITHIN, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


@pytest.mark.two_nodes
def test_a_service_that_is_stopped_gives_its_work_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The partner stands still, so that the run is under way when the service is told to stop."""
    retailer, publisher = make(tmp_path, capsys)
    retailer.start()
    publisher.start()
    try:
        connect(retailer, publisher)
        retailer.run("feed", "create", "summer", "--segment", "vip", *SHARE)
        retailer.run("feed", "publish", "summer")
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        publisher.enable("summer")
        retailer.until(lambda runs: {run["state"] for run in runs} == {"done"}, "job", "list")
        assert publisher.process is not None
        assert retailer.process is not None
        publisher.process.send_signal(signal.SIGSTOP)
        try:
            job = retailer.run("feed", "sync", "summer", "--no-wait")["runs"][0]["job"]
            retailer.until(lambda shown: shown["state"] == "running", "job", "show", job)
            retailer.process.send_signal(signal.SIGTERM)
            assert retailer.process.wait(STOP_WITHIN) == 0
            shown = retailer.run("job", "show", job)
            assert (shown["state"], shown["error"]) == ("queued", None)
        finally:
            publisher.process.send_signal(signal.SIGCONT)
        retailer.start()
        retailer.until(lambda shown: shown["state"] == "done", "job", "show", job)
        assert {row["state"] for row in retailer.run("job", "list")} == {"done"}
    finally:
        retailer.stop()
        publisher.stop()
    assert "Traceback" not in (retailer.home / "service.log").read_text()
