"""Who sees and changes what of which data source: roles with sources, and wildcards."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from callers import signed_in

from cli.main import main
from node.access.permissions import PermissionDenied
from node.access.users import Token
from node.audiencemanager import signals, sources, traits, visitors
from node.audiencemanager.records import NewTrait, TraitKind
from node.errors import InvalidInput, NotAllowed, NotFound
from node.node import Node

Said = Callable[..., Any]
MANAGING = ["view", "manage-audience", "receive-audience"]


@pytest.fixture
def tokens(node: Node) -> dict[str, Token]:
    """Ann, who may do all, and lou, who has the data source 2000000 (Own) alone, beside which there is 2000001 (Cards)."""
    tokens = {"ann": node.users.create("ann", ["administrator"])}
    with signed_in(node, tokens["ann"]) as anns:
        audience = anns.project().audience
        audience.sources.create("Own")
        audience.folders.create("Shelf")
        audience.traits.create("mine", source="Own", folder="Shelf")  # 1001
        audience.segments.create("mine", source="Own", rule="1001T")  # 1002
        anns.roles.create("listed", MANAGING, sources=[2_000_000])
        tokens["lou"] = anns.users.create("lou", ["listed"])
        tokens["will"] = anns.users.create("will", ["audience-manager"])
        audience.sources.create("Cards")
        audience.traits.create("secret", source="Cards", folder="Shelf")  # 1003
        audience.segments.create("hidden", source="Cards", rule="1001T")  # 1004
        audience.segments.create("mixed", source="Own", rule="1001T AND NOT 1003T")  # 1005
        audience.traits.create("shelf", source="Own", kind=TraitKind.FOLDER, folder="Shelf")  # 1006
    return tokens


@pytest.fixture
def said(
    node: Node, tokens: dict[str, Token], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Said:
    def run(user: str, *words: str) -> Any:
        capsys.readouterr()
        monkeypatch.setenv("VESICA_TOKEN", tokens[user].text)
        main([*words, "--home", str(node.home.path), "--json"])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.feature("AM7")
def test_a_new_data_source_is_there_for_wildcards_alone(said: Said) -> None:
    assert [each["name"] for each in said("lou", "audience", "source", "list")] == ["Own"]
    assert [each["name"] for each in said("will", "audience", "source", "list")][-2:] == ["Own", "Cards"]
    assert [each["name"] for each in said("lou", "audience", "trait", "list")] == ["mine"]
    assert said("lou", "audience", "reconcile", "vip")["error"]["code"] == "refused"  # its numbers are of all traits
    assert [each["name"] for each in said("will", "audience", "trait", "list")] == ["mine", "secret", "shelf"]
    assert [each["name"] for each in said("lou", "audience", "segment", "list")] == ["mine"]
    assert len(said("will", "audience", "segment", "list")) == 4 - 1
    (shelf,) = said("lou", "audience", "folder", "list")
    assert (shelf["traits"], shelf["segments"]) == (1, 0)
    assert said("will", "audience", "folder", "list")[0]["traits"] == 3
    assert said("lou", "audience", "trait", "show", "mine")["segments"] == [{"number": 1002, "name": "mine"}]
    assert len(said("will", "audience", "trait", "show", "mine")["segments"]) == 3
    for words in (
        "trait show 1003", "trait show secret", "trait ttl secret 3", "trait delete secret --yes", "segment show 1004",
        "segment show mixed", "segment delete 1004 --yes", "trait show shelf", "source control Cards --add pii",
        "trait create new --source 2000001", "segment create new --source Own --rule 1003T",
        "segment create new --source Own --rule 1004S", "segment edit 1002 --rule 1006T",
    ):  # fmt: skip
        assert said("lou", "audience", *words.split())["error"]["code"] in ("not_found", "permission_denied"), words


@pytest.mark.feature("AM7")
def test_what_lou_may_do_with_the_source_of_her_own(node: Node, tokens: dict[str, Token]) -> None:
    with signed_in(node, tokens["lou"]) as lous:
        audience = lous.project().audience
        audience.traits.create("more", source="Own", rule="a == 1")
        audience.traits.edit("more", days=3)
        audience.segments.create("more", source="Own", rule="1007T")
        with pytest.raises(NotAllowed, match="used by segment 1008 'more'"):
            audience.traits.delete("more")
        audience.segments.delete("more")
        audience.traits.delete("more")
        with pytest.raises(NotAllowed, match="a segment that you may not see"):
            audience.traits.delete("mine")
        with pytest.raises(NotAllowed, match="all data sources"):
            audience.sources.create("New")
        with pytest.raises(PermissionDenied):
            audience.sources.control("Own", add=["pii"])  # needs governance too
        assert audience.traits.create("secret", source="Own")["name"] == "secret"  # what is hidden takes no name


@pytest.mark.feature("AM7")
def test_roles_say_their_sources_and_wildcards(said: Said) -> None:
    rows = {each["name"]: each for each in said("ann", "role", "list")}
    assert (rows["listed"]["sources"], rows["listed"]["wildcards"]) == ([2_000_000], [])
    assert rows["viewer"]["wildcards"] == ["VIEW_ALL_TRAITS", "VIEW_ALL_SEGMENTS", "VIEW_ALL_SIGNALS"]
    assert {"CREATE_ALL_TRAITS", "EDIT_ALL_TRAITS", "DELETE_ALL_TRAITS", "MAP_ALL_TO_SEGMENTS"} <= {
        *rows["audience-manager"]["wildcards"]
    }
    assert "MAP_ALL_TO_DESTINATIONS" in rows["activator"]["wildcards"]
    made = said("ann", "role", "create", "two", "--permission", "view-segments", "--sources", "0,20914")
    assert made["sources"] == [0, 20914]
    assert said("ann", "role", "create", "bad", "--permission", "view", "--sources", "x")["error"]["code"] == "usage"


@pytest.mark.feature("AM7")
def test_nobody_gives_more_data_sources_than_they_have(node: Node, tokens: dict[str, Token]) -> None:
    with signed_in(node, tokens["ann"]) as anns:
        for permission in ("administer", "audit"):
            with pytest.raises(InvalidInput, match="cannot be limited to sources"):
                anns.roles.create("bad", ["view", permission], sources=[0])
        anns.roles.create("desk", ["administer", "view-profiles"])
        anns.roles.create("narrow", ["view-segments"], sources=[20914])
        with pytest.raises(NotAllowed, match="sight that another limits"):
            anns.users.create("deb", ["desk", "narrow"])
        here = anns.project().scope
        anns.users.create("deb", ["desk"])
        anns.users.grant("lou", "viewer", scope=here)  # of which one alone is a wildcard
    with signed_in(node, tokens["lou"]) as lous:
        assert len(lous.project().audience.traits.all()) == 3
        with pytest.raises(NotAllowed, match="do not let you change what is of data source 2000001"):
            lous.project().audience.traits.edit("secret", days=1)


@pytest.mark.feature("AM7")
@pytest.mark.feature("AM3")
def test_labels_hide_what_is_made_from_segments_that_have_them(node: Node) -> None:
    ann = node.users.create("ann", ["administrator"])
    with signed_in(node, ann) as anns:
        scope, audience = anns.project().scope, anns.project().audience
        with scope.begin() as tx:
            source = sources.ensure(scope, tx, "Experience Platform Segments").number
            for name, labels in (("open", ["C5"]), ("closed", ["S1"])):
                wanted = NewTrait(name=name, source=source, integration_code=name, labels=labels)
                number = traits.ensure(scope, tx, wanted).number
        audience.segments.create("of closed", source=source, rule=f"{number}T")
        side = visitors.opened(scope)
        with side.begin() as writing:
            seen = [signals.Seen((("segID", each),), side.today, 5, 0, 0) for each in ("open", "closed")]
            signals.note(writing, source, seen)
        anns.roles.create("limited", ["view"], labels=["C5"])
        lou = anns.users.create("lou", ["limited"])
    with signed_in(node, lou) as lous:
        assert [each["name"] for each in lous.project().audience.traits.all()] == ["open"]
        assert lous.project().audience.segments.all() == []
        with pytest.raises(NotFound):
            lous.project().audience.traits.show("closed")
        assert [each["pairs"][0]["value"] for each in lous.project().audience.signals.search(["segID"])] == ["open"]
        assert lous.project().audience.signals.search(["segID=closed"]) == []
