"""What stands in a row of the audit log: the account that the operating system knows, and no identity or secret."""

import json
import os
import pwd
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest

from node.access import audit
from node.erasure.erasure import People
from node.errors import StoreUnavailable
from node.node import Node
from node.storage.database import Database
from psi.errors import VesicaError

TOKEN = "vesica-token-abcdefghijklmnopqrstuvwxyz234567"
TYPED = ["ann.smith@example.com", "ann%40example.com", "+44 7400 123456", "07400 123456", "0-7400-123456", TOKEN]
TYPED += ["vesica1aeaqcaibaeaq"]


@pytest.mark.feature("OP2")
@pytest.mark.parametrize("text", TYPED)
def test_what_is_typed_in_place_of_a_name_is_not_written_down(node: Node, text: str) -> None:
    project = node.project()
    calls: list[Callable[[], object]] = [
        lambda: project.segments.create(text, rule="amount > 1"),
        lambda: project.segments.create("s", rule=f"'{text}' > 5"),
        lambda: project.segments.show(text),
        lambda: project.consent.set("nobody", "n", text),
        lambda: project.labels.apply(text, "field", f"crm.{text}"),
        lambda: project.files.export("s", f"/no/{text}/out.csv", uses=[text]),
        lambda: project.erasure.profiles(People(identities=[f"{text}=x"])),
        lambda: project.feeds.create(text, segments=["s"], namespaces=[text], partners=[text]),
        lambda: node.users.create(text, ["viewer"]),
        lambda: node.users.revoke(text),
    ]
    for call in calls:
        with suppress(VesicaError):
            call()
    written = json.dumps([each.as_dict() for each in node.audit.entries(result=audit.Result.DENY)])
    assert written.count('"act"') > 5
    parts = [text, text.partition("@")[0], text[-8:]]
    assert [each for each in parts if each in written] == []
    node.audit.verify()


@pytest.mark.feature("OP2")
@pytest.mark.parametrize(
    "name",
    ["feed.publish", "/backups/2026-11-30.tar", "C1 on field crm.score", "viewer to bob", "10:" + "0123456789" * 6],
)
def test_names_are_written_as_they_are(node: Node, name: str) -> None:
    with node.home.act("label.create", name):
        pass
    assert node.audit.entries()[0].target == name


@pytest.mark.feature("OP2")
def test_no_variable_of_the_environment_names_who_acts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ann")
    audit.process_user.cache_clear()
    node.project().labels.create("mine", "a label")
    assert node.audit.entries()[0].actor == f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


@pytest.mark.feature("OP2")
def test_a_password_in_the_query_of_a_url_is_not_shown() -> None:
    with pytest.raises(StoreUnavailable) as refused:
        Database.open("postgresql://node@127.0.0.1:1/vesica?password=sekret99")
    assert "127.0.0.1" in str(refused.value)
    assert "sekret99" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.feature("OP2")
def test_key_files_that_others_can_read_are_closed_when_the_home_is_opened(node: Node) -> None:
    keys = sorted((node.home.path / "keys").glob("*.key"))
    for each in keys:
        each.chmod(0o606)
    Node.open(node.home.path).close()
    assert [each.stat().st_mode & 0o777 for each in keys] == [0o600] * 2
