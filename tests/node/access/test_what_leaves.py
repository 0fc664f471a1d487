"""What leaves a node has its audit row before the first byte, however the command ends."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from node.errors import Failure
from node.node import Node
from node.storage import outputs

PAGE = 4096
COMMANDS = {
    "segment.export": ["segment", "export", "all", "-"],
    "node.backup": ["node", "backup", "-"],
    "audit.export": ["audit", "export", "-"],
}


@pytest.fixture
def filled(node: Node, tmp_path: Path) -> Node:
    """A node with more in a segment, in its audit log and in a backup than a pipe takes."""
    project, file = node.project(), tmp_path / "in.csv"
    file.write_text("id,amount\n" + "".join(f"{number:08},5\n" for number in range(3_000)))
    project.profiles.import_(file, dataset="crm", id_column="id", identities=[], attributes=["amount"])
    project.segments.create("all", rule="amount > 1")
    for number in range(40):
        project.labels.create(f"label-{number}", "a label")
    return node


def results(node: Node, act: str) -> list[str]:
    return [each.result for each in reversed(node.audit.entries(act=act))]


@pytest.mark.feature("OP2")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("act", COMMANDS)
def test_a_command_that_is_stopped_while_it_writes_has_its_row(filled: Node, act: str, end: signal.Signals) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PAGE)
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; import sys; from cli.main import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "--home", str(filled.home.path), *COMMANDS[act]], stdout=writing, stderr=subprocess.DEVNULL
    ) as process:
        os.close(writing)
        assert len(os.read(reading, 1)) == 1  # a byte has left, and the others wait for room
        process.send_signal(end)
        os.close(reading)
        process.wait()
    interrupted = ["allow", "fail"] if end is signal.SIGINT else ["allow"]
    assert results(filled, act) == interrupted
    filled.audit.verify()


@pytest.mark.feature("OP2")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Failure("the disk is gone")])
def test_what_could_not_be_written_is_said(
    filled: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(_: outputs.Output, __: bytes | Iterable[bytes] = b"") -> None:
        raise error

    monkeypatch.setattr(outputs.Output, "write", broken)
    monkeypatch.setattr(outputs.Output, "finish", broken)
    calls: dict[str, Callable[[], object]] = {
        "segment.export": lambda: filled.project().files.export("all", tmp_path / "out.csv"),
        "node.backup": lambda: filled.backup(tmp_path / "out.tar"),
        "audit.export": lambda: filled.export_audit(tmp_path / "audit.csv", "csv"),
    }
    for act, call in calls.items():
        with pytest.raises(type(error)):
            call()
        assert results(filled, act) == ["allow", "fail"]
    assert not list(tmp_path.glob("out*"))


@pytest.mark.feature("OP2")
def test_an_act_that_is_interrupted_before_it_is_done_has_a_row_and_does_nothing(filled: Node) -> None:
    with pytest.raises(KeyboardInterrupt), filled.project().scope.act("label.create", "new"):
        raise KeyboardInterrupt
    assert results(filled, "label.create")[-1] == "fail"
