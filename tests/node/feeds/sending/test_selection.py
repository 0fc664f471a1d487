"""Who leaves with a feed: consent, labels and policies on the way out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharing import draft, small
from sides import EMAIL, Pair, Person
from sqlalchemy import insert, update

from cli.remedies import spelled
from node.access.audit import Result
from node.errors import NotAllowed, NotFound
from node.feeds.sending.selection import Selection, choose
from node.governance.violations import PolicyConflict, PolicyViolation
from node.people.audiences import Audience
from node.people.snapshots import Snapshot
from node.project import Project
from node.storage.tables import label_uses, projects
from psi.values import Bools, Values


def audience(segments: Sequence[str], consented: str, qualified: Sequence[str] | None = None) -> Audience:
    """Return an audience of as many identities as the words have letters: "yny" is the first and the third."""

    def bools(words: Sequence[str]) -> Bools:
        return np.array([[letter == "y" for letter in word] for word in words], bool)

    count = len(consented)
    values = Values(np.array([[number] * 32 for number in range(count)], np.uint8).reshape(-1, 32))
    met = None if qualified is None else bools(qualified)
    return Audience(values=values, segments=bools(segments), consented=bools([consented])[0], qualified=met)


def chosen(selection: Selection, namespace: str = EMAIL) -> dict[int, list[bool]]:
    found = selection.audiences[namespace]
    return dict(zip(found.values.rows[:, 0].tolist(), found.segments.T.tolist(), strict=True))


def test_who_may_leave() -> None:
    everyone = choose({EMAIL: audience(["yyn", "nyy"], "yyy")}, ["a", "b"], minimum=1)
    assert chosen(everyone) == {0: [True, False], 1: [True, True], 2: [False, True]}
    assert (everyone.considered, everyone.sent, everyone.unconsented, everyone.small) == (3, 3, 0, 0)
    unconsented = choose({EMAIL: audience(["yyn", "nyy"], "yny")}, ["a", "b"], minimum=1)
    assert chosen(unconsented) == {0: [True, False], 2: [False, True]}
    assert (unconsented.considered, unconsented.sent, unconsented.unconsented) == (3, 2, 1)
    strict = choose({EMAIL: audience(["yyn", "nyy"], "yyy", ["nny", "yyy"])}, ["a", "b"], minimum=1)
    # Who fails the policy of one segment stays in the other.
    assert chosen(strict) == {1: [False, True], 2: [False, True]}
    assert (strict.unconsented, strict.small_segments) == (1, ["a"])


def test_a_small_segment_stays_unless_it_is_large_in_one_namespace() -> None:
    small = choose({EMAIL: audience(["ynnn", "nyyy"], "yyyy")}, ["a", "b"], minimum=2)
    assert chosen(small) == {1: [False, True], 2: [False, True], 3: [False, True]}
    assert (small.small, small.small_segments) == (1, ["a"])
    found = {EMAIL: audience(["ynnn", "nyyy"], "yyyy"), "phone": audience(["yy", "nn"], "yy")}
    both = choose(found, ["a", "b"], minimum=2)
    assert (both.considered, both.sent, both.small, both.small_segments) == (6, 6, 0, [])
    assert chosen(both)[0] == [True, False]
    none = choose({EMAIL: audience(["", ""], "")}, ["a", "b"], minimum=1)
    assert (none.considered, none.sent, none.small_segments) == (0, 0, ["a", "b"])


@pytest.mark.feature("CO0")
@pytest.mark.feature("CO1")
def test_a_feed_names_what_is_missing_and_the_command_that_sets_it(pair: Pair, person: type[Person]) -> None:
    acme = pair.acme.project

    def refused(act: Callable[[], Any], what: str, command: str) -> None:
        with pytest.raises(NotAllowed, match=what) as caught:
            act()
        assert caught.value.remedy is not None
        assert command in spelled(caught.value.remedy)

    def create() -> None:
        draft(pair, "other")

    refused(create, "namespace", "vesica profile import")
    pair.acme.people([person("a1", "a@example.com")])
    refused(create, "consent model", "vesica consent model")
    acme.consent.set_model("opt-out")
    acme.policies.disable("restrict-data-sharing")
    refused(create, "sharing policy", "vesica policy enable restrict-data-sharing")
    acme.policies.enable("restrict-data-sharing")
    small(pair)
    draft(pair)
    with pair.acme.node.home.database.begin() as tx:
        tx.execute(update(projects).values(consent_model=None))
    assert [each["name"] for each in acme.reports.project()["prerequisites"] if not each["met"]] == ["consent model"]
    for act in (create, lambda: acme.feeds.estimate("summer"), lambda: acme.feeds.publish("summer")):
        refused(act, "consent model", "vesica consent model opt-in or vesica consent model opt-out")


@pytest.mark.feature("CO1")
@pytest.mark.parametrize(("model", "expected"), [("opt-out", {"g3", "g4"}), ("opt-in", {"g3"})])
def test_the_model_decides_about_those_who_said_nothing(
    pair: Pair, person: type[Person], model: str, expected: set[str]
) -> None:
    ours = [person(f"a{n}", f"person{n}@example.com", share=share) for n, share in ((3, "y"), (4, ""), (5, "n"))]
    theirs = [person(f"g{n}", f"person{n}@example.com") for n in range(3, 9)]
    pair.prepare(ours, theirs, {"vip": ["a3", "a4", "a5"]})
    pair.acme.project.consent.set_model(model)
    pair.share("summer", ["vip"], [EMAIL])
    pair.acme.project.feeds.sync()
    assert pair.globe.members("acme", "vip") == expected


@pytest.mark.feature("CO3")
def test_who_withdraws_exits_with_the_next_run_and_is_counted(pair: Pair) -> None:
    small(pair)
    pair.share("summer", ["new"], [EMAIL])
    (run,) = pair.acme.project.feeds.sync()
    assert (run["sent"], run["without_consent"]) == (3, 0)
    pair.clock.advance(days=1)
    pair.acme.project.consent.set("a4", "n")
    (run,) = pair.acme.project.feeds.sync()
    assert (run["sent"], run["without_consent"]) == (2, 1)
    assert pair.globe.members("acme", "new") == {"g3", "g5"}
    statuses = pair.globe.project.memberships.statuses("summer", "new")
    ids = Snapshot.open(pair.globe.project.scope).profile_ids
    assert {name: {ids[each].decode() for each in found} for name, found in statuses.items()} == {
        "realized": set(),
        "existing": {"g3", "g5"},
        "exited": {"g4"},
    }
    newest = pair.acme.acts("feed.run")[0]
    assert (newest["detail"]["without_consent"], newest["detail"]["sent"]) == (1, 2)


def attributes(pair: Pair) -> None:
    """Give acme a dataset with two attributes, and a segment by one of them."""
    file = pair.acme.folder / "orders.csv"
    file.write_text("id,income,colour\na3,9,red\na4,20,blue\n")
    pair.acme.project.profiles.import_(
        file, dataset="orders", id_column="id", identities=[], attributes=["income", "colour"]
    )
    pair.acme.project.segments.create("rich", rule="income > 5")


@pytest.mark.feature("GV2")
@pytest.mark.feature("GV3")
def test_a_label_blocks_what_uses_the_field_and_nothing_else(pair: Pair) -> None:
    small(pair)
    attributes(pair)
    labels = pair.acme.project.labels
    labels.apply("C11", "field", "orders.colour")
    draft(pair, "unused", ["rich"])
    labels.apply("C11", "field", "orders.income")
    with pytest.raises(PolicyViolation, match=r"C11 from field orders\.income"):
        draft(pair, "used", ["rich"])
    with pytest.raises(PolicyViolation):
        pair.acme.project.feeds.publish("unused")
    labels.remove("C11", "field", "orders.income")
    labels.apply("C11", "dataset", "orders")
    for kind, target in (("field", "orders.income"), ("segment", "rich")):
        with pytest.raises(NotAllowed, match="dataset orders"):
            labels.remove("C11", kind, target)
    with pytest.raises(PolicyViolation, match="C11 from dataset orders"):
        draft(pair, "used", ["rich"])
    draft(pair, "other", ["vip"])
    labels.apply("C11", "field", "crm.email")  # what it would be carried by
    with pytest.raises(PolicyViolation, match=r"C11 from field crm\.email"):
        pair.acme.project.feeds.publish("other")
    assert pair.globe.project.received.all() == []
    assert {each["target"] for each in pair.acme.acts("feed", Result.DENY)} == {"used", "unused", "other"}


def put_unasked(project: Project, label: str, kind: str, target: str) -> None:
    """Put a label where it came by a way that asks nobody: an import that maps a field anew, or a restored database."""
    row = {"project_id": project.id, "label": label, "kind": kind, "target": target}
    with project.scope.home.database.begin() as tx:
        tx.execute(insert(label_uses).values(id=project.scope.home.new_id(), **row))


@pytest.mark.feature("GV9")
def test_c12_blocks_feed_run_and_file_alike_whatever_the_policies_say(pair: Pair, tmp_path: Path) -> None:
    small(pair)
    attributes(pair)
    acme = pair.acme.project
    pair.share("summer", ["rich"], [EMAIL])
    acme.policies.create("own", "segment-match", "C9")
    acme.policies.disable("restrict-data-sharing")
    assert acme.files.export("rich", tmp_path / "before.csv") == 2
    with pytest.raises(PolicyConflict, match="feed summer is published, and label C12"):
        acme.labels.apply("C12", "field", "orders.income")
    put_unasked(acme, "C12", "field", "orders.income")
    for act in (
        lambda: acme.feeds.estimate("summer"),
        lambda: draft(pair, "second", ["rich"]),
        lambda: acme.feeds.sync("summer"),
        lambda: acme.files.export("rich", tmp_path / "after.csv"),
    ):
        with pytest.raises(NotAllowed, match=r"C12 from field orders\.income"):
            act()
    assert not (tmp_path / "after.csv").exists()
    with pytest.raises(NotFound):
        pair.globe.members("acme", "rich")
