"""Every act of connecting, feeds, policies, labels and consent that is refused leaves a row: who, what, when, deny."""

from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from sides import EMAIL

from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project
from psi.errors import VesicaError


def acts(project: Project, folder: Any) -> dict[str, Any]:
    """Return for each act one call that is refused on a project that has a consent model, a feed to nobody, and no more."""
    missing = folder / "missing.csv"
    missing.write_text("id\n1\n")
    bad = folder / "bad.csv"
    bad.write_text("nothing\n1\n")
    columns = [IdentityColumn.parse("email=email_sha256:raw")]
    partners, feeds, received = project.partners, project.feeds, project.received
    return {
        "project.terms": lambda: project.set_terms(minimum_universe=-1),
        "project.create": lambda: Node(project.scope.home).create_project("default"),
        "partner.id": partners.connect_id,
        "partner.request": lambda: partners.look_up("vesica1nonsense"),
        "partner.accept": lambda: partners.accept("nobody"),
        "partner.decline": lambda: partners.decline("nobody"),
        "partner.disconnect": lambda: partners.disconnect("nobody"),
        "partner.preflight": lambda: partners.preflight("nobody"),
        "partner.allow": lambda: partners.allow("nobody"),
        "feed.create": lambda: feeds.create("f", segments=["s"], namespaces=[EMAIL], partners=["nobody"]),
        "feed.estimate": lambda: feeds.estimate("f"),
        "feed.publish": lambda: feeds.publish("f"),
        "feed.edit": lambda: feeds.unshare("f", segment="s"),
        "feed.unshare": lambda: feeds.unshare("f", partner="nobody"),
        "feed.revoke": lambda: feeds.revoke("f"),
        "feed.sync": lambda: feeds.sync("f"),
        "feed.enable": lambda: received.enable("f"),
        "feed.disable": lambda: received.disable("f"),
        "feed.decline": lambda: received.decline("f"),
        "policy.create": lambda: project.policies.create("p", "segment-match", "C1 AND"),
        "policy.enable": lambda: project.policies.enable("nothing"),
        "policy.disable": lambda: project.policies.disable("nothing"),
        "label.create": lambda: project.labels.create("C11", "text"),
        "label.apply": lambda: project.labels.apply("C11", "segment", "nothing"),
        "label.remove": lambda: project.labels.remove("C11", "segment", "nothing"),
        "consent.model": lambda: project.consent.set_model("opt-sideways"),
        "consent.set": lambda: project.consent.set("nobody", "y"),
        "consent.import": lambda: project.consent.import_(bad, id_column="id", consent_column="share"),
        "profile.import": lambda: project.profiles.import_(bad, dataset="d", id_column="id", identities=columns),
        "segment.create": lambda: project.segments.create("s", rule="nonsense ="),
        "segment.delete": lambda: project.segments.delete("nothing"),
        "segment.evaluate": lambda: project.segments.evaluate("nothing"),
        "audit.prune": lambda: Node(project.scope.home).prune_audit(project.scope.home.now()),
        "audit.export": lambda: Node(project.scope.home).export_audit(folder, "csv"),
        "node.backup": lambda: Node(project.scope.home).backup(folder),
    }


@pytest.mark.feature("OP2")
def test_every_refused_act_leaves_a_row(node: Node, tmp_path: Path, clock: Clock) -> None:
    project = node.project()
    for act, call in acts(project, tmp_path).items():
        clock.advance(seconds=1)
        before = node.audit.head().number
        with pytest.raises(VesicaError) as refused:
            call()
        rows = [entry for entry in node.audit.entries(act=act) if entry.number > before]
        assert [(entry.act, entry.result) for entry in rows] == [(act, "deny")], act
        (row,) = rows
        assert row.at == clock.now
        assert row.actor
        assert row.target
        assert row.detail["error"] == {"code": refused.value.code, "message": str(refused.value)}
    node.audit.verify()
