"""Users and their tokens: how they begin and end, and that nobody gives more than they have."""

from pathlib import Path

import pytest
from callers import crew, denied, signed_in
from clock import Clock
from sqlalchemy import select

from node.access.permissions import READY_MADE, PermissionDenied
from node.errors import AlreadyExists, InvalidInput, InvalidToken, NotAllowed, NotFound, TokenNeeded, WrongPassphrase
from node.node import Node
from node.storage import tables
from psi.errors import Remedy


@pytest.mark.feature("OP1")
def test_without_users_the_operator_may_do_everything_and_with_users_nobody_without_a_token(
    either_node: Node, clock: Clock
) -> None:
    project = either_node.project()
    project.consent.set_model("opt-in")
    tokens = crew(either_node, bob="viewer")
    for refused in (
        either_node.projects,
        either_node.project,
        either_node.status,
        either_node.audit.entries,
        either_node.audit.verify,
        either_node.users.all,
        either_node.roles.all,
        either_node.jobs.all,
        lambda: project.consent.set_model("opt-out"),
        lambda: either_node.create_project("other"),
        lambda: either_node.users.create("eve", ["administrator"]),
        lambda: either_node.users.token("ann"),
        lambda: either_node.sign_in(None),
        lambda: either_node.sign_in(""),
    ):
        with pytest.raises(TokenNeeded, match="has users") as nobody:
            refused()
        assert nobody.value.remedy == Remedy("user.token")
    for wrong in ("vesica-token-" + "a" * 52, tokens["ann"].text[:-1], tokens["ann"].text.upper()):
        with pytest.raises(InvalidToken):
            either_node.sign_in(wrong)
    assert denied(either_node, "user.sign-in")[0][1] == "invalid_token"
    either_node.sign_in(tokens["ann"].text)
    assert project.scope.consent_model == "opt-in"
    assert either_node.users.show().name == "ann"


def test_a_token_is_not_kept_and_ends_by_time_or_by_hand(either_node: Node, clock: Clock) -> None:
    tokens = crew(either_node, bob="viewer")
    text = tokens["bob"].text
    assert len(text) > 60
    with either_node.home.database.read() as reading:
        kept = [row._asdict() for row in reading.execute(select(tables.tokens))]
    assert len(kept) == 2
    assert text not in str(kept)
    files = (path.read_bytes() for path in either_node.home.path.rglob("*") if path.is_file())
    assert not any(text.removeprefix("vesica-token-").encode() in content for content in files)
    with signed_in(either_node, text) as bobs:
        assert bobs.project().name == "default"
        clock.advance(days=89)
        assert bobs.project().name == "default"
        clock.advance(days=1)
        with pytest.raises(InvalidToken, match="expired") as expired:
            bobs.project()
        assert expired.value.remedy == Remedy("user.reset", {"name": "bob"})  # ann's has expired too
    with Node.open(either_node.home.path, now=clock) as again, pytest.raises(InvalidToken, match="expired"):
        again.sign_in(text)
    clock.advance(days=-1)
    with signed_in(either_node, tokens["ann"]) as anns, signed_in(either_node, text) as bobs:
        more = anns.users.token("bob", days=1)
        assert [len(user.tokens) for user in anns.users.all()] == [1, 2]
        assert anns.users.revoke("bob") == 2
        with pytest.raises(InvalidToken):
            bobs.project()  # at once, also where somebody has signed in
        with pytest.raises(InvalidToken):
            bobs.sign_in(more.text)
        for days in (0, 367):
            with pytest.raises(InvalidInput):
                anns.users.token("bob", days=days)


def test_a_role_that_is_taken_away_is_gone_at_once(either_node: Node) -> None:
    tokens = crew(either_node, gus="governance")
    with signed_in(either_node, tokens["gus"]) as guss, signed_in(either_node, tokens["ann"]) as anns:
        project = guss.project()
        project.labels.create("mine", "Mine")
        anns.users.deny("gus", "governance")
        with pytest.raises(PermissionDenied) as refused:
            project.labels.create("other", "Other")
        assert refused.value.permission == "manage-governance"
        with pytest.raises(NotFound):
            guss.project()


def test_the_first_user_administers_and_the_last_administrator_stays(either_node: Node) -> None:
    users = either_node.users
    with pytest.raises(NotAllowed, match="administer"):
        users.create("bob", ["viewer"])
    with pytest.raises(NotAllowed, match="administer"):
        users.create("bob", ["administrator"], scope=either_node.project().scope)
    tokens = crew(either_node, bob="viewer")
    with signed_in(either_node, tokens["ann"]) as anns:
        with pytest.raises(NotAllowed, match="administer"):
            anns.users.remove("ann")
        with pytest.raises(NotAllowed, match="administer"):
            anns.users.deny("ann", "administrator")
        anns.roles.create("desk", ["administer", "view"])
        anns.users.grant("bob", "desk")
        for refused in (
            lambda: anns.users.remove("ann"),  # bob could grant nobody the rest
            lambda: anns.users.deny("ann", "administrator"),
            anns.users.remove_all,
        ):
            with pytest.raises(NotAllowed):
                refused()
        anns.users.remove("bob")
        with pytest.raises(NotAllowed, match="administer"):
            anns.users.remove("ann")  # also the last user of all
    with pytest.raises(TokenNeeded):
        either_node.projects()


def test_what_users_and_roles_refuse(either_node: Node) -> None:
    tokens = crew(either_node, bob="viewer")
    with signed_in(either_node, tokens["ann"]) as anns:
        with pytest.raises(AlreadyExists):
            anns.users.create("bob", ["viewer"])
        with pytest.raises(NotFound):
            anns.users.create("cyd", ["emperor"])
        with pytest.raises(AlreadyExists):
            anns.users.grant("bob", "viewer")
        with pytest.raises(NotFound):
            anns.users.deny("bob", "viewer", scope=anns.project().scope)
        for name in ("bob", "nobody"):
            with pytest.raises(NotFound):
                anns.users.deny(name, "shares")
        for act, error in (
            (lambda: anns.roles.create("viewer", ["view"]), AlreadyExists),
            (lambda: anns.roles.create("all", ["everything"]), InvalidInput),
            (lambda: anns.roles.create("none", []), InvalidInput),
            (lambda: anns.roles.delete("viewer"), NotAllowed),
            (lambda: anns.roles.delete("nothing"), NotFound),
        ):
            with pytest.raises(error):
                act()
        role = anns.roles.create("both", ["view", "manage-shares", "manage-connections"], labels=["c5", "own-label"])
        assert role.labels == frozenset({"C5", "own-label"})
        anns.users.grant("bob", "both", scope=anns.project().scope)
        assert anns.users.show("bob").roles == (("viewer", None), ("both", "default"))
        with pytest.raises(NotAllowed, match="users have the role both: bob"):
            anns.roles.delete("both")
        anns.users.deny("bob", "both", scope=anns.project().scope)
        anns.roles.delete("both")
        assert [each.name for each in anns.roles.all()] == list(READY_MADE)
        anns.audit.verify()
    with signed_in(either_node, tokens["bob"]) as bobs:
        assert bobs.users.show().roles == (("viewer", None),)
        for refused in (
            bobs.users.all,
            lambda: bobs.users.show("ann"),
            lambda: bobs.users.token("bob"),
            lambda: bobs.users.grant("bob", "administrator"),
            lambda: bobs.users.grant("bob", "administrator", scope=bobs.project().scope),
            lambda: bobs.users.reset("bob"),
            lambda: bobs.roles.create("more", ["administer"]),
        ):
            with pytest.raises(PermissionDenied):
                refused()
    assert denied(either_node, "user.reset") == [("bob", "permission_denied")]


@pytest.mark.feature("OP1")
@pytest.mark.feature("GV10")
def test_nobody_grants_more_than_they_hold_there(either_node: Node) -> None:
    tokens = crew(either_node)
    with signed_in(either_node, tokens["ann"]) as anns:
        project = anns.project()
        anns.roles.create("desk", ["administer"])
        anns.roles.create("narrower", ["view"], labels=[])
        pat = anns.users.create("pat", ["administrator"], scope=project.scope)
        deb = anns.users.create("deb", ["desk", "viewer"])
        anns.users.create("bob", [])
    with signed_in(either_node, pat) as pats:
        pats.users.grant("bob", "exporter", scope=pats.project().scope)
        for refused in (
            lambda: pats.users.grant("bob", "viewer"),
            lambda: pats.users.grant("pat", "administrator"),
            lambda: pats.users.token("ann"),
            lambda: pats.users.create("eve", ["viewer"], scope=pats.project().scope),
        ):
            with pytest.raises(PermissionDenied):
                refused()
    with signed_in(either_node, deb) as debs:
        for refused in (
            lambda: debs.users.grant("deb", "administrator"),
            lambda: debs.users.grant("deb", "administrator", scope=project.scope),
            lambda: debs.users.grant("deb", "exporter"),
            lambda: debs.users.create("eve", ["data"]),
            lambda: debs.users.token("ann"),
            lambda: debs.users.reset("deb"),
            lambda: debs.users.reset("ann"),
        ):
            with pytest.raises(NotAllowed, match="does not have there"):
                refused()
        debs.users.grant("bob", "narrower")
        debs.users.token("deb")
    assert denied(either_node, "user.reset") == [("deb", "refused")] * 2


@pytest.mark.feature("OP1")
def test_nobody_takes_anything_from_somebody_who_has_more(either_node: Node) -> None:
    tokens = crew(either_node, bob="exporter")
    with signed_in(either_node, tokens["ann"]) as anns:
        project = anns.project()
        anns.roles.create("desk", ["administer", "view"])
        anns.roles.create("senders", ["view", "manage-shares"])
        anns.users.grant("bob", "viewer")
        deb = anns.users.create("deb", ["desk"])
        pat = anns.users.create("pat", ["desk"], scope=project.scope)
        anns.users.create("low", ["viewer"])
        anns.users.create("two", ["viewer"], scope=anns.create_project("other").scope)
        anns.users.grant("two", "viewer", scope=project.scope)
        anns.users.grant("bob", "viewer", scope=project.scope)
    with signed_in(either_node, deb) as debs:
        for refused in (
            lambda: debs.users.remove("ann"),
            lambda: debs.users.revoke("ann"),
            lambda: debs.users.deny("ann", "administrator"),
            lambda: debs.users.remove("bob"),
            lambda: debs.users.revoke("bob"),
            lambda: debs.users.deny("bob", "exporter"),
            lambda: debs.users.deny("bob", "viewer"),
            lambda: debs.roles.delete("senders"),
            debs.users.remove_all,
        ):
            with pytest.raises(NotAllowed):
                refused()
        debs.users.revoke("low")
        debs.users.deny("low", "viewer")
        debs.users.remove("low")
        with pytest.raises(NotAllowed):
            debs.users.remove("ann")
    with signed_in(either_node, pat) as pats:
        pats.users.deny("two", "viewer", scope=project.scope)  # what two is elsewhere does not matter
        with pytest.raises(NotAllowed, match="export"):
            pats.users.deny("bob", "viewer", scope=project.scope)
    assert denied(either_node, "user.remove") == [("deb", "refused")] * 3
    with signed_in(either_node, tokens["ann"]) as anns:
        assert [user.name for user in anns.users.all()] == ["ann", "bob", "deb", "pat", "two"]
        assert len(anns.users.show("ann").tokens) == 1


def test_only_the_operator_ends_the_need_for_tokens(either_node: Node) -> None:
    tokens = crew(either_node, bob="viewer")
    with signed_in(either_node, tokens["ann"]) as anns, pytest.raises(NotAllowed, match="with a token"):
        anns.users.remove_all()
    assert denied(either_node, "user.reset") == [("ann", "refused")]
    with Node.open(either_node.home.path, now=either_node.home.now) as unsigned:
        assert unsigned.users.remove_all() == ["ann", "bob"]
        assert unsigned.projects()
        entry = unsigned.audit.entries(act="user.reset")[0]
        assert (entry.target, entry.result, entry.detail) == ("all", "allow", {"removed": ["ann", "bob"]})
        assert "@" in entry.actor
    assert either_node.users.all() == []


def test_the_operator_with_the_files_finds_back_and_the_log_says_so(either_node: Node) -> None:
    old = crew(either_node, bob="viewer")["ann"]
    with Node.open(either_node.home.path, now=either_node.home.now) as unsigned:
        fresh = unsigned.users.reset("ann")
        with pytest.raises(InvalidToken):
            unsigned.sign_in(old.text)
        unsigned.sign_in(fresh.text)
        entry = unsigned.audit.entries(act="user.reset")[0]
        assert (entry.target, entry.result) == ("ann", "allow")
        assert "@" in entry.actor  # the user of the machine
        unsigned.users.remove("bob")
    with Node.open(either_node.home.path, now=either_node.home.now) as unsigned:
        unsigned.users.reset("eve")
    assert denied(either_node, "user.sign-in") == [(entry.actor, "invalid_token")]


def test_the_way_back_needs_the_passphrase_of_the_keys(
    home: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESICA_PASSPHRASE", "right")
    with Node.create(home, "Fern", now=clock) as node:
        crew(node)
    monkeypatch.setenv("VESICA_PASSPHRASE", "wrong")
    with Node.open(home, now=clock) as node:
        with pytest.raises(WrongPassphrase):
            node.users.reset("ann")
        with pytest.raises(WrongPassphrase):
            node.users.remove_all()
    with Node.open(home, now=clock) as node, node.home.guard.itself():
        assert [entry.result for entry in node.audit.entries(act="user.reset")] == ["deny", "deny"]
