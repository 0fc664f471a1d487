"""Snapshots: what a reader finds in one generation."""

import numpy as np
import pytest
from loading import Load

from node.people.snapshots import Snapshot
from node.project import Project

IDFA = "6d92078a-8246-4ba4-ae5b-76104861e7dc"


@pytest.mark.feature("ID5")
def test_the_same_text_in_two_namespaces_is_two_identities(project: Project, load: Load) -> None:
    load(project, f"id,a,b,c\n1,{IDFA},,{IDFA}\n2,,{IDFA},x\n", "a=idfa", "b=gaid", "c=loyalty")
    snapshot = Snapshot.open(project.scope)
    assert snapshot.namespaces == ["gaid/uuid-v1", "idfa/uuid-v1", "loyalty/opaque-v1"]
    assert snapshot.identities("idfa/uuid-v1").profiles.tolist() == [0]
    assert snapshot.identities("gaid/uuid-v1").profiles.tolist() == [1]
    assert snapshot.identities("idfa/uuid-v1").values[0] == snapshot.identities("gaid/uuid-v1").values[0]
    assert len(snapshot.identities("loyalty/opaque-v1")) == 2
    assert len(snapshot.identities("nothing/opaque-v1")) == 0


def test_identities_are_sorted_and_group_by_value(project: Project, load: Load) -> None:
    load(project, "id,l\n9,bb\n8,a\n7,bb\n6,a\n5,a \n9,bb\n", "l=loyalty")
    load(project, "id,l\n7,bb\n4,b\n", "l=loyalty", dataset="shop")
    snapshot = Snapshot.open(project.scope)
    held = snapshot.identities("loyalty/opaque-v1")
    rows = [(held.values[row], int(held.profiles[row])) for row in range(len(held))]
    assert rows == sorted(rows) == [(b"a", 1), (b"a", 3), (b"a ", 4), (b"b", 5), (b"bb", 0), (b"bb", 2)]
    values, starts = snapshot.distinct("loyalty/opaque-v1")
    assert [values[row] for row in range(len(values))] == [b"a", b"a ", b"b", b"bb"]
    assert starts.tolist() == snapshot.starts("loyalty/opaque-v1").tolist() == [0, 2, 3, 4]
    assert np.add.reduceat(np.ones(6, int), starts).tolist() == [2, 1, 1, 2]


def test_a_profile_has_one_primary_identity(project: Project, load: Load) -> None:
    content = "id,email,l\n1,z@x.com,\n1,a@x.com,A\n2,,B\n3,c@x.com,C\n"
    load(project, content, "email=email_sha256", "l=loyalty")

    def primary(profile: str) -> list[str]:
        return [each["namespace"] for each in project.profiles.show(profile)["identities"] if each["primary"]]

    assert [primary(each) for each in "123"] == [["email_sha256/lc-v1"], ["loyalty/opaque-v1"], ["email_sha256/lc-v1"]]
    first = next(each for each in project.profiles.show("1")["identities"] if each["primary"])
    load(project, "id,email\n9,z@x.com\n", "email=email_sha256", dataset="other")
    assert first["value"] == project.profiles.show("9")["identities"][0]["value"]
    load(project, content, "email=email_sha256", "l=loyalty:primary")
    assert [primary(each) for each in "123"] == [["loyalty/opaque-v1"]] * 3
