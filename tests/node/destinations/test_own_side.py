"""What others share does not come back from the project's own Audience Manager side as if it were the project's."""

from pathlib import Path

import pytest
from targets import people

from node.errors import NotAllowed
from node.node import Node


def test_segments_of_others_do_not_go_to_the_projects_own_audience_manager_side(node: Node, tmp_path: Path) -> None:
    node.share_segments(on=True)
    theirs, ours = node.create_project("crm"), node.create_project("ads")
    for project in (theirs, ours):
        people(project, tmp_path, 6)
        project.consent.set_model("opt-out")
    theirs.segments.create("vip", rule="orders >= 2")
    theirs.sharing.share("vip", [ours.name], namespaces=["email_sha256"])
    ours.segments.create("made", rule="shared.crm.vip AND orders >= 1")
    ours.segments.create("own", rule="orders >= 4")
    ours.destinations.older_sharing.on({})  # leaves out what may not leave
    assert ours.destinations.show("audience-sharing")["gets"] == ["own"]
    ours.destinations.older_sharing.off()
    ours.destinations.create("side", "audience-manager", {})
    for segment in ("made", "shared.crm.vip"):
        with pytest.raises(NotAllowed, match="segments of others"):
            ours.destinations.activate("side", [segment])
    ours.destinations.activate("side", ["own"])
    ours.segments.update("own", rule="shared.crm.vip")
    assert ours.destinations.sync("side")
    (trait,) = [
        each for each in ours.audience.traits.all() if each["name"] == "own" and "Segments" in each["source_name"]
    ]
    assert trait["members"] == 0
