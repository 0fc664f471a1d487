"""Export controls: what they are on the platform, and what they block."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from node.access.scope import Scope
from node.audiencemanager import controls, hooks, platform, sources, traits
from node.audiencemanager.catalogue import Catalogue
from node.audiencemanager.records import NewTrait, TraitKind
from node.errors import InvalidInput
from node.node import Node
from node.project import Project
from node.storage.database import Tx

PAIRS = [  # control, label, marketing action
    ("pii", "C3", "combine-with-pii"),
    ("off-site-ads", "C5", "cross-site-targeting"),
    ("on-site-ads", "C6", "onsite-advertising"),
    ("on-site-personalisation", "C7", "onsite-personalisation"),
]


@dataclass
class Target:
    """A destination that a segment or a trait is mapped to."""

    segment: int | None = None
    trait: int | None = None
    uses: tuple[str, ...] = ()

    def mapped(self, scope: Scope, tx: Tx) -> Iterable[controls.DestinationMapping]:
        there = Catalogue(scope, tx)
        segment = None if self.segment is None else there.segments[self.segment]
        trait = None if self.trait is None else there.traits[self.trait]
        yield controls.DestinationMapping(destination="billboard", uses=self.uses, segment=segment, trait=trait)


@pytest.fixture
def project(node: Node) -> Project:
    return node.project()


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what maps a trait or a segment to the destination billboard, without a check."""

    def set_(**target: object) -> None:
        monkeypatch.setitem(hooks.MAPPED, "test", Target(**target).mapped)  # type: ignore[arg-type]

    return set_


def check(project: Project, segment: int, *uses: str) -> None:
    """Map a segment to the destination billboard."""
    with project.scope.read() as tx:
        (one,) = Target(segment=segment, uses=uses).mapped(project.scope, tx)
        controls.check(project.scope, tx, one)


@pytest.mark.feature("AM3")
@pytest.mark.parametrize(("control", "label", "action"), PAIRS)
def test_controls_labels_and_actions_are_one_another(project: Project, control: str, label: str, action: str) -> None:
    assert controls.from_labels([label]).found == controls.from_actions([action]).found == (control,)
    assert controls.to_labels([control]).found == (label,)
    assert controls.to_actions([control]).found == (action,)
    made = project.audience.sources.create("Cards", export_controls=[control])
    assert (made["labels"], made["actions"]) == ([label], [action])
    assert project.audience.sources.control("Cards", remove=[label])["controls"] == []
    assert project.audience.sources.control("Cards", add=[label])["controls"] == [control]


@pytest.mark.feature("AM3")
def test_words_that_mean_nothing_on_the_other_side_are_reported(project: Project) -> None:
    assert controls.from_labels(["C5", "C2", "mine"]) == controls.Translated(
        found=("off-site-ads",), unknown=("C2", "mine")
    )
    assert controls.to_labels(["pii", "other"]) == controls.Translated(found=("C3",), unknown=("other",))
    assert controls.to_actions(["other"]).unknown == ("other",)
    assert controls.from_actions(["analytics", "combine-with-pii"]).unknown == ("analytics",)
    assert controls.from_labels(["C4"]).found == ("off-site-ads", "on-site-ads", "on-site-personalisation")
    for word in ("C2", "off-site"):
        with pytest.raises(InvalidInput, match="no export control") as refused:
            project.audience.sources.control("Google Advertising ID", add=[word])
        assert "pii, off-site-ads" in refused.value.hint


@pytest.mark.feature("AM3")
def test_a_trait_has_the_controls_of_its_source_and_of_the_labels_that_it_came_with(project: Project) -> None:
    scope = project.scope
    project.audience.sources.control(0, add=["pii"])
    with scope.begin() as tx:
        source = sources.by_number(scope, tx, 0)
        assert source is not None
        made = traits.ensure(
            scope, tx, NewTrait(name="vip", source=source.number, integration_code="v", labels=["C2", "C6"])
        )
    shown = project.audience.traits.show(made.number)
    assert (shown["controls"], shown["labels_without_control"]) == (["pii", "on-site-ads"], ["C2"])
    segment = project.audience.segments.create("all", source=0, rule=f"{made.number}T")
    assert segment["labels"] == ["C2", "C3", "C6"]  # as they are on the platform
    with pytest.raises(controls.ExportControl, match=r"by the label C6 .* trait \d+ 'vip'"):
        check(project, segment["number"], "onsite-advertising")


@pytest.mark.feature("AM3")
def test_labels_of_a_segment_of_the_platform_are_on_its_trait_and_follow(project: Project) -> None:
    about = {"sender": "here", "sequence": None, "older": True, "segment": "8f81", "name": "vip"}
    number = platform.take(project.scope, platform.Arrival(**about, labels=("C5", "C8"))).trait  # type: ignore[arg-type]
    shown = project.audience.traits.show(number)
    assert (shown["labels"], shown["controls"], shown["labels_without_control"]) == (
        ["C5", "C8"],
        ["off-site-ads"],
        ["C8"],
    )
    platform.take(project.scope, platform.Arrival(**about, labels=("C3",)))  # type: ignore[arg-type]
    assert project.audience.traits.show(number)["controls"] == ["pii"]


@pytest.mark.feature("AM4")
@pytest.mark.parametrize("use", [pair[2] for pair in PAIRS])
@pytest.mark.parametrize("control", [pair[0] for pair in PAIRS])
def test_a_control_blocks_the_use_that_it_forbids_and_no_other(
    project: Project, mapped: Callable[..., None], control: str, use: str
) -> None:
    audience = project.audience
    audience.sources.create("Own")
    card = audience.sources.create("Cards", kind="third-party", export_controls=[control])["number"]
    plain = audience.traits.create("plain", source="Own")["number"]
    trait = audience.traits.create("gold", source="Cards")["number"]
    segment = audience.segments.create("mix", source="Cards", rule=f"{plain}T")["number"]  # its own source counts not
    check(project, segment, use)
    mapped(segment=segment, uses=[use])
    if (control, use) not in {(pair[0], pair[2]) for pair in PAIRS}:
        audience.segments.edit(segment, rule=f"{plain}T OR {trait}T")
        check(project, segment, use)
        return
    with pytest.raises(controls.ExportControl) as refused:
        audience.segments.edit(segment, rule=f"{plain}T OR {trait}T")
    assert refused.value.code == "export_control"
    for part in (f"data source {card} 'Cards'", f"trait {trait} 'gold'", f"segment {segment} 'mix'", "billboard"):
        assert part in str(refused.value)
    assert audience.segments.show(segment)["rule"] == f"{plain}T"
    mapped(uses=())
    audience.segments.edit(segment, rule=f"{plain}T OR {trait}T")
    with pytest.raises(controls.ExportControl, match="billboard"):
        check(project, segment, use)
    check(project, segment)  # a destination without a use


@pytest.mark.feature("AM4")
def test_what_is_looked_at(project: Project, mapped: Callable[..., None]) -> None:
    """Traits of nested segments, of folders, the merge rule; and a control that comes after the mapping."""
    audience, use = project.audience, "combine-with-pii"
    audience.sources.create("Own")
    audience.sources.create("Cards", export_controls=["pii"])
    gold = audience.traits.create("gold", source="Cards")["number"]
    inner = audience.segments.create("inner", source="Own", rule=f"{gold}T")["number"]
    outer = audience.segments.create("outer", source="Own", rule=f"{inner}S")["number"]
    with pytest.raises(controls.ExportControl, match=f"trait {gold} 'gold', in segment {outer} 'outer'"):
        check(project, outer, use)
    plain = audience.traits.create("plain", source="Own")["number"]
    merged = audience.segments.create("merged", source="Own", rule=f"{plain}T", merge_by="Cards")["number"]
    with pytest.raises(controls.ExportControl, match=r"'Cards'.*the merge rule"):
        check(project, merged, use)
    audience.folders.create("Shelf")
    shelf = audience.traits.create("shelf", source="Own", kind=TraitKind.FOLDER, folder="Shelf")["number"]
    foldered = audience.segments.create("foldered", source="Own", rule=f"{shelf}T")["number"]
    mapped(segment=foldered, uses=[use])
    with pytest.raises(controls.ExportControl, match=f"trait {gold} 'gold'"):
        audience.traits.edit(gold, folder="Shelf")
    with pytest.raises(controls.ExportControl, match="'new'"):
        audience.traits.create("new", source="Cards", folder="Shelf")
    audience.traits.edit(plain, folder="Shelf")
    with pytest.raises(controls.ExportControl, match="'plain'"):
        audience.sources.control("Own", add=["pii"])
    audience.sources.control("Own", add=["on-site-ads"])
    mapped(trait=gold, uses=["onsite-advertising"])
    with pytest.raises(controls.ExportControl, match="'gold', alone, may not go to destination billboard"):
        audience.sources.control("Cards", add=["on-site-ads"])
    assert audience.sources.all()[-1]["controls"] == ["pii"]
