"""Data sources, folders, traits and segments of traits, as people make them; on both databases."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from pyroaring import BitMap

from node.audiencemanager import audience_segments, folders, numbers, sources, traits, visitors
from node.audiencemanager.records import NewSegment, NewTrait, TraitKind
from node.errors import AlreadyExists, InvalidInput, InvalidName, NotAllowed, NotFound
from node.node import Node
from node.storage.tables import audience_imports


def test_sources_folders_traits_and_segments_are_made_and_changed(either_node: Node) -> None:
    audience = either_node.project().audience
    built_in = [each["number"] for each in audience.sources.all()]
    assert built_in == [0, 1, 20914, 20915, 121963, 389146, 488258, 963906, 1171485, 1171489]
    site = audience.sources.create("Site")
    cards = audience.sources.create("Cards", kind="third-party", namespace="email_sha256", integration_code="c")
    assert (site["number"], site["namespace"]) == (2_000_000, "dpid-2000000/opaque-v1")
    assert (cards["number"], cards["kind"], cards["namespace"]) == (2_000_001, "third-party", "email_sha256/lc-v1")
    retail = audience.folders.create("Retail")
    shoes = audience.folders.create("Shoes", parent="Retail")
    buyers = audience.traits.create("Buyers", source="Site", rule='event == "buy"', folder="Retail / Shoes", days=30)
    gold = audience.traits.create("Gold", source=2_000_001, integration_code="g", description="The best")
    shelf = audience.traits.create("Shelf", source="Site", kind=TraitKind.FOLDER, folder=retail["number"])
    assert (retail["number"], shoes["number"], buyers["number"]) == (1_000, 1_001, 1_002)  # one counter
    kinds = [each["kind"] for each in audience.traits.all()]
    assert kinds == ["RULE_BASED_TRAIT", "ON_BOARDED_TRAIT", "FOLDER_TRAIT"]
    both = audience.segments.create("Both", source="Site", rule="1002T AND 1003T", folder="Shoes")
    nested = audience.segments.create("Nested", source="Site", rule=f"{both['number']}S OR 1004T")
    assert [each["name"] for each in nested["traits"]] == ["Buyers", "Gold", "Shelf"]
    assert [each["name"] for each in nested["made_of"]] == ["Both"]
    assert audience.traits.show("Gold")["segments"] == [{"number": both["number"], "name": "Both"}]
    counted = {each["path"]: (each["traits"], each["segments"]) for each in audience.folders.all()}
    assert counted == {"Retail": (1, 0), "Retail / Shoes": (1, 1)}
    changed = audience.traits.edit("Gold", name="Golden", rule="level == gold", days=0, folder="Retail")
    assert [changed[each] for each in ("number", "name", "rule", "days", "folder", "description")] == [
        gold["number"], "Golden", "level == gold", 0, "Retail", "The best",
    ]  # fmt: skip
    assert audience.segments.edit("Nested", rule="1003T", name="Other")["traits"][0]["name"] == "Golden"
    audience.segments.delete("Other")
    audience.segments.delete("Both")
    audience.traits.delete(shelf["number"])
    assert audience.traits.create("Newer", source="Site")["number"] == 1_007  # no number is given twice
    acts = [each.act for each in either_node.audit.entries() if each.act.startswith("audience.delete")]
    assert acts == ["audience.delete-trait", "audience.delete-segment", "audience.delete-segment"]


def test_what_the_platform_makes_is_there_once_and_follows(either_node: Node) -> None:
    scope, audience = either_node.project().scope, either_node.project().audience
    with scope.begin() as tx:
        source = sources.ensure(scope, tx, "Experience Platform Segments")
        assert sources.ensure(scope, tx, source.name) == source
        folder = folders.ensure(scope, tx, "Experience Platform Traits")
        assert folders.ensure(scope, tx, folder.name) == folder
        new = partial(NewTrait, source=source.number, integration_code="x1", rule='segID == "x1"', folder=folder.number)
        trait = traits.ensure(scope, tx, new(name="vip", labels=["C5"]))
        twin = traits.ensure(scope, tx, NewTrait(name="vip", source=source.number, integration_code="x2"))
        before = numbers.revision(scope, tx)
        again = traits.ensure(scope, tx, new(name="vip", labels=["C5"]))
        assert (again, numbers.revision(scope, tx)) == (trait, before)
        renamed = traits.ensure(scope, tx, new(name="gold"))
        assert (renamed.number, renamed.name, renamed.labels) == (trait.number, "gold", [])
        assert numbers.revision(scope, tx) > before
        whole = partial(NewSegment, source=source.number, integration_code="x1", rule=f"{trait.number}T")
        segment = audience_segments.ensure(scope, tx, whole(name="vip"))
        other = audience_segments.ensure(scope, tx, whole(name="gold"))
        assert (other.number, other.name) == (segment.number, "gold")
    with scope.begin() as tx:
        traits.ensure(scope, tx, new(name="vip"))
    with pytest.raises(InvalidInput, match="2 traits are named"):
        audience.traits.show("vip")
    for name, rule in (("mine", None), (None, "a == 1")):
        with pytest.raises(NotAllowed, match="made from a segment of the platform"):
            audience.traits.edit(twin.number, name=name, rule=rule)
    assert audience.traits.edit(twin.number, days=5)["days"] == 5


def test_what_is_used_says_where(node: Node) -> None:
    audience = node.project().audience
    audience.sources.create("Site")
    trait = audience.traits.create("Buyers", source="Site")["number"]
    inner = audience.segments.create("Inner", source="Site", rule=f"{trait}T")["number"]
    outer = audience.segments.create("Outer", source="Site", rule=f"{inner}S")["number"]
    with pytest.raises(NotAllowed, match=f"is used by segment {inner} 'Inner'"):
        audience.traits.delete("Buyers")
    with pytest.raises(NotAllowed, match=f"is used by segment {outer} 'Outer'"):
        audience.segments.delete("Inner")
    with pytest.raises(NotAllowed, match="would be made of itself"):
        audience.segments.edit("Inner", rule=f"{trait}T OR {outer}S")
    audience.segments.delete("Outer")
    audience.segments.delete("Inner")
    row = {"id": "1" * 32, "project_id": node.project().id, "kind": "trait", "number": trait, "name": "buyers"}
    with node.home.database.begin() as tx:
        tx.execute(audience_imports.insert().values(**row, size=0, created=0))
    with pytest.raises(NotAllowed, match=r"is used by the import trait\.buyers"):
        audience.traits.delete(trait)


def test_limits_and_mistakes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    audience = node.project().audience
    audience.sources.create("Site")
    audience.traits.create("Buyers", source="Site", integration_code="b")
    audience.segments.create("All", source="Site", rule="1000T", integration_code="a")
    with pytest.raises(AlreadyExists, match="data source 'Site'"):
        audience.sources.create("Site")
    for name, code in (("Buyers", None), ("Other", "b")):
        with pytest.raises(AlreadyExists):
            audience.traits.create(name, source="Site", integration_code=code)
    for name, code in (("All", None), ("Other", "a")):
        with pytest.raises(AlreadyExists):
            audience.segments.create(name, source="Site", rule="1000T", integration_code=code)
    audience.traits.create("Buyers", source=20914, integration_code="b")  # unique in its data source
    assert audience.traits.create("x" * 255, source="Site", days=0)["days"] == 0
    for name in ("x" * 256, "", " x", "a\x1b[2J"):
        with pytest.raises(InvalidName):
            audience.traits.create(name, source="Site")
    with pytest.raises(InvalidInput, match=r"character|expected"):
        audience.traits.create("new", source="Site", rule="event ==")
    shelf = audience.folders.create("Shelf")["number"]
    with pytest.raises(InvalidInput, match="has no rule"):
        audience.traits.create("new", source="Site", rule="a == 1", kind=TraitKind.FOLDER, folder=shelf)
    with pytest.raises(InvalidInput, match="is that of a folder"):
        audience.traits.create("new", source="Site", kind=TraitKind.FOLDER)
    for source, folder in (("Sight", None), ("7", None), ("Site", "None")):
        with pytest.raises(NotFound):
            audience.traits.create("new", source=source, folder=folder)
    for missing in ("999T", "999S"):
        with pytest.raises(NotFound):
            audience.segments.create("new", source="Site", rule=missing)
    with pytest.raises(InvalidInput, match="recency"):
        audience.segments.create("new", source="Site", rule="FREQUENCY([1000T] <= 5D) >= 2")
    parent = None
    for depth in range(5):
        parent = audience.folders.create(f"f{depth}", parent=parent)["number"]
    with pytest.raises(NotAllowed, match="5 deep"):
        audience.folders.create("f5", parent=parent)
    made: dict[Any, Callable[[], object]] = {
        folders: lambda: audience.folders.create("more"),
        traits: lambda: audience.traits.create("more", source="Site"),
        audience_segments: lambda: audience.segments.create("more", source="Site", rule="1000T"),
    }
    for limited, make in made.items():
        monkeypatch.setattr(limited, "MOST", 1)
        with pytest.raises(NotAllowed, match="at most 1 "):
            make()


def test_who_has_a_trait_and_who_is_in_a_segment_is_counted(node: Node) -> None:
    scope, audience = node.project().scope, node.project().audience
    audience.sources.create("Site")
    audience.folders.create("Shelf")
    first = audience.traits.create("first", source="Site", rule="a == 1", folder="Shelf", days=1)["number"]
    second = audience.traits.create("second", source="Site", folder="Shelf", days=0)["number"]
    shelf = audience.traits.create("shelf", source="Site", kind=TraitKind.FOLDER, folder="Shelf")["number"]
    only = audience.segments.create("only", source="Site", rule=f"{shelf}T AND NOT {second}T")["number"]
    often = audience.segments.create("often", source="Site", rule=f"FREQUENCY([{first}T]) >= 2 OR {only}S")["number"]
    known = visitors.opened(scope)
    times = np.arange(2, 60, dtype=np.uint32)  # visitor 2 twice, visitor 3 three times, and so on
    known.realise(first, BitMap(range(1, 60)), known.today - 1, once=False, several=(times, times))
    known.realise(second, BitMap(range(50, 70)), known.today, once=False)
    counts = {each["number"]: each["members"] for each in [*audience.traits.all(), *audience.segments.all()]}
    assert counts == {first: 59, second: 20, shelf: 69, only: 49, often: 59}
    assert audience.traits.show(first)["members"] == 59
    assert audience.traits.edit(first, rule="b == 2")["members"] == 59  # realised before, by the other rule
    assert audience.segments.edit(only, rule=f"{shelf}T AND {second}T")["members"] == 20
    audience.segments.delete(often)
    audience.segments.delete(only)
    audience.traits.delete(first)
    assert len(known.members(first, 0)) == 0
    assert audience.traits.show(shelf)["members"] == 20
