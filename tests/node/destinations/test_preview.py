"""Messages are looked at before anything leaves, and show nobody to whom that is not allowed."""

import json
from hashlib import sha256
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import targets
from callers import crew, signed_in

from node.access.permissions import Permission, PermissionDenied
from node.destinations import primaries
from node.destinations.preview import masked
from node.destinations.targets import identity_texts, payload
from node.errors import NotFound
from node.node import Node
from node.project import Project
from psi.values import Values


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    project = targets.prepared(node.project(), tmp_path, 8, s="orders >= 2")
    project.consent.set("p7", "n")
    project.destinations.create(
        "hook", "webhook", {"url": "https://crm.example/"}, identity="email_sha256", uses=["analytics"]
    )
    return project


def test_three_messages_are_shown_masked_and_nothing_is_sent(project: Project) -> None:
    found = project.destinations.preview("hook", "s")
    assert (len(found["messages"]), found["leave"], found["excluded"]) == (3, 5, {"consent": 1})
    digests = {sha256(f"p{n}@x.com".encode()).hexdigest() for n in range(8)}
    for text in found["messages"]:
        body = json.loads(text)
        jsonschema.validate(body, payload.schema())
        (profile,) = body["data"]["profiles"]
        ((identity,),) = profile["identityMap"].values()
        assert identity["id"] not in digests
        assert identity["id"][4:] == "0" * 60
        assert profile["segments"]["add"] == [project.segments.show("s").id]
    shown = project.destinations.preview("hook", "s", unmasked=True)["messages"]
    ids = [json.loads(each)["data"]["profiles"][0]["identityMap"]["email_lc_sha256"][0]["id"] for each in shown]
    assert set(ids) <= digests
    assert len(set(ids)) == 3
    assert project.destinations.runs("hook") == []
    assert project.destinations.show("hook")["segments"] == []
    for act in ("destination.preview", "destination.preview-unmasked"):
        (entry,) = project.scope.home.audit.entries(act=act)
        assert (entry.target, entry.detail) == ("hook", {"segment": "s"})
    assert not any(each in str(project.scope.home.audit.entries()) for each in digests)
    with pytest.raises(NotFound):
        project.destinations.preview("hook", "nothing")


def test_attributes_are_masked_and_a_file_looks_as_it_will(project: Project, tmp_path: Path) -> None:
    targets.Folder(tmp_path / "out")
    project.destinations.create("out", "file", {"folder": str(tmp_path / "out")}, uses=["analytics"])
    (first, *_) = project.destinations.preview("out", "s")["messages"]
    assert first.splitlines()[1].startswith("id,**,s,realized,")
    project.destinations.create("own", "webhook", {"url": "https://crm.example/"}, uses=["analytics"])
    project.destinations.pause("own")
    project.destinations.activate("own", ["s"], mapping={"person.orders": "orders"})
    for unmasked, orders in ((False, "***"), (True, "2")):
        body = json.loads(project.destinations.preview("own", "s", unmasked=unmasked)["messages"][0])
        assert body["data"]["profiles"][0]["attributes"] == {"person": {"orders": orders}}


def test_only_who_may_export_is_shown_people(node: Node, project: Project) -> None:
    with signed_in(node, crew(node)["ann"]) as anns:
        tokens = [anns.users.create(name, [role]) for name, role in (("vic", "viewer"), ("ed", "exporter"))]
        anns.roles.create("few", ["view-segments", "view-destinations"])
        tokens.append(anns.users.create("flo", ["few"]))
    with signed_in(node, tokens[0]) as vics:
        assert len(vics.project().destinations.preview("hook", "s")["messages"]) == 3
        with pytest.raises(PermissionDenied) as refused:
            vics.project().destinations.preview("hook", "s", unmasked=True)
        assert refused.value.missing == (Permission.EXPORT,)
    with signed_in(node, tokens[1]) as eds:
        assert len(eds.project().destinations.preview("hook", "s", unmasked=True)["messages"]) == 3
    with signed_in(node, tokens[2]) as flos, pytest.raises(PermissionDenied) as refused:
        flos.project().destinations.preview("hook", "s")
    assert refused.value.missing == (Permission.VIEW_PROFILES,)


def test_a_masked_identity_keeps_its_form() -> None:
    values = Values.of([b"12345678901234567890123456789012345678"])
    assert identity_texts.texts(masked(values, "ecid/digits-v1"), "ecid/digits-v1") == ["12" + "0" * 36]
    assert identity_texts.texts(masked(Values.of(["Zoë".encode(), b"C-1"]), "id"), "id") == ["****", "***"]
    given = {
        "ecid/digits-v1": values,
        "gaid/uuid-v1": Values.of([bytes(range(16))]),
        "email_sha256/lc-v1": Values.of([b"x" * 32]),
    }
    for name, each in given.items():
        mixed = masked(primaries.keyed(name, each), primaries.PRIMARY)
        ((code, text),) = identity_texts.named(mixed, primaries.PRIMARY)
        assert code == identity_texts.code(name)
        assert text == identity_texts.texts(masked(each, name), name)[0]
        assert np.array_equal(mixed.rows[:, 0], primaries.keyed(name, each).rows[:, 0])
