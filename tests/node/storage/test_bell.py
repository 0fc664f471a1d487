"""Every commit rings, here and in other processes, and who missed a ring waits no longer than is bearable."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from node.node import Node
from node.storage import bell
from node.storage.tables import alerts, letters, projects

WAIT = 60.0  # for what takes a moment
RENAME = """
import sys
from contextlib import suppress
from pathlib import Path
from node.node import Node
with Node.open(Path(sys.argv[1])) as node, node.home.database.begin() as tx:
    node.project().scope.change(tx, consent_model="opt-in")
"""


def elsewhere(home: Path) -> None:
    """Change a project's row in another process."""
    subprocess.run([sys.executable, "-c", RENAME, str(home)], check=True)


def test_a_commit_rings_for_the_tables_that_it_changed(either_node: Node) -> None:
    home, scope = either_node.home, either_node.project().scope
    with home.bell.event(projects) as mine, home.bell.event(letters) as other, home.bell.event() as any_:
        with home.database.begin() as tx:
            scope.change(tx, consent_model="opt-in")
            assert not mine.is_set()  # nobody could see it yet
        assert (mine.is_set(), other.is_set(), any_.is_set()) == (True, False, True)


def undone(node: Node) -> None:
    with suppress(ZeroDivisionError), node.home.database.begin() as tx:
        node.project().scope.change(tx, consent_model="opt-in")
        raise ZeroDivisionError


def nothing(node: Node) -> None:
    with node.home.database.begin() as tx:
        tx.execute(alerts.update().where(alerts.c.id == "nobody").values(text="x"))
        tx.execute(alerts.delete())


@pytest.mark.parametrize("act", [undone, nothing])
def test_what_changes_no_row_does_not_ring(either_node: Node, act: Callable[[Node], None]) -> None:
    with either_node.home.bell.event() as rung:
        act(either_node)
        assert not rung.is_set()


def test_a_commit_of_another_process_rings_at_the_service(either_node: Node) -> None:
    home = either_node.home
    with home.bell.event(projects) as rung, home.bell.serving():
        for _ in range(2):
            rung.clear()
            elsewhere(home.path)
            assert rung.wait(WAIT)
    assert not (home.path / "bell").exists()
    elsewhere(home.path)  # nobody hears it


def test_a_fifo_that_a_killed_service_left_is_used_again(node: Node) -> None:
    os.mkfifo(node.home.path / "bell")
    elsewhere(node.home.path)
    with node.home.bell.event() as rung, node.home.bell.serving():
        elsewhere(node.home.path)
        assert rung.wait(WAIT)


def test_where_there_can_be_no_fifo_nobody_waits_long(node: Node) -> None:
    (node.home.path / "bell").write_text("not a FIFO")
    assert node.home.bell.seconds == bell.SAFETY_SECONDS
    with node.home.bell.event(projects) as rung, node.home.bell.serving():
        assert node.home.bell.seconds == bell.DEAF_SECONDS
        elsewhere(node.home.path)
        with node.home.database.begin() as tx:
            node.project().scope.change(tx, consent_model="opt-out")
        assert rung.is_set()  # what this process does is heard all the same


def test_a_service_that_hears_nothing_more_stops_no_commit(node: Node) -> None:
    os.mkfifo(node.home.path / "bell")
    reading = os.open(node.home.path / "bell", os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(reading, bytes(4_096))
    elsewhere(node.home.path)
    os.close(reading)
