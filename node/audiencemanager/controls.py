"""Export controls: what the signals and ids of a data source may not be used for.

A control stands on a data source, or comes with the label of the platform's segment that a trait is made from. It blocks
where a destination has the marketing action that it forbids; alone, or beside other actions, it blocks nothing. What counts
is where traits come from, also those of nested segments, and the data source of the merge rule: not the segment's own.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed, nearest
from ..governance.lineage import IMPORTED, Lineage, Place, PlaceKind
from ..storage.database import Tx
from . import audience_segments, imported, traits
from .catalogue import Catalogue
from .hooks import MAPPED
from .records import AudienceSegment, Source, Trait
from .sight import Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """An export control with the label and the marketing action that mean the same."""

    name: str
    label: str
    action: str
    text: str


CONTROLS = {
    each.name: each
    for each in (
        Control(
            name="pii",
            label="C3",
            action="combine-with-pii",
            text="Cannot be tied to personally identifiable information",
        ),
        Control(
            name="off-site-ads",
            label="C5",
            action="cross-site-targeting",
            text="Cannot be used for off-site ad targeting",
        ),
        Control(
            name="on-site-ads",
            label="C6",
            action="onsite-advertising",
            text="Cannot be used for on-site ad targeting",
        ),
        Control(
            name="on-site-personalisation",
            label="C7",
            action="onsite-personalisation",
            text="Cannot be used for on-site personalisation",
        ),
    )
}
COVERED = {"C4": ("C5", "C6", "C7")}  # a label that stands for others


@dataclass(frozen=True, slots=True, kw_only=True)
class Translated:
    """Words of the other side, in their order there, and the words that have none, as they were given."""

    found: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationMapping:
    """A trait or a segment of traits that goes to a destination with its marketing actions, now or if nothing forbids it."""

    destination: str
    uses: Collection[str]
    segment: AudienceSegment | None = None
    trait: Trait | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A control and the destination's action that it forbids; `trait` is None where the control is on the data source of a
    merge rule, `segment` where the trait goes alone."""

    control: Control
    source: Source
    trait: Trait | None
    segment: AudienceSegment | None
    destination: str


class ExportControl(NotAllowed):
    """An export control of a data source forbids what a destination is for."""

    code = "export_control"


def checked(controls: Iterable[str]) -> list[str]:
    """Return export controls in their order; raises InvalidInput for a word that is none."""
    given = set(controls)
    for each in sorted(given - CONTROLS.keys()):
        hint = f"{nearest(each, CONTROLS)}the controls are {', '.join(CONTROLS)}"
        raise InvalidInput(f"there is no export control {each[:80]!r}", hint=hint)
    return [each for each in CONTROLS if each in given]


def from_labels(labels: Iterable[str]) -> Translated:
    """Return the export controls that labels are here, and the labels that are none."""
    given = sorted(set(labels))
    spelled = {one for each in given for one in COVERED.get(each, (each,))}
    known = {each.label for each in CONTROLS.values()}
    return Translated(
        found=tuple(name for name, each in CONTROLS.items() if each.label in spelled),
        unknown=tuple(each for each in given if known.isdisjoint(COVERED.get(each, (each,)))),
    )


def to_labels(controls: Iterable[str]) -> Translated:
    """Return the labels that export controls are on the platform, and the controls that are none."""
    given = set(controls)
    found = (each.label for name, each in CONTROLS.items() if name in given)
    return Translated(found=tuple(found), unknown=tuple(sorted(given - CONTROLS.keys())))


def to_actions(controls: Iterable[str]) -> Translated:
    """Return the marketing actions that export controls forbid, and the controls that are none."""
    given = set(controls)
    found = (each.action for name, each in CONTROLS.items() if name in given)
    return Translated(found=tuple(found), unknown=tuple(sorted(given - CONTROLS.keys())))


def from_actions(actions: Iterable[str]) -> Translated:
    """Return the export controls that forbid marketing actions, and the actions that none forbids."""
    given = set(actions)
    known = {each.action for each in CONTROLS.values()}
    found = (name for name, each in CONTROLS.items() if each.action in given)
    return Translated(found=tuple(found), unknown=tuple(sorted(given - known)))


def labels_of(catalogue: Catalogue, traits: Iterable[Trait], segments: Iterable[AudienceSegment] = ()) -> set[str]:
    """Return the labels that what is made of some traits and segments has on the platform: those of the segments that they
    came from, and what the controls of their data sources are there."""
    parts = [one for each in traits for one in catalogue.made_of(each)]
    found = {label for each in parts for label in each.labels}
    names = {name for each in parts for name in _of_source(catalogue, each.source)}
    names |= {name for each in segments for name in _of_merge_rule(catalogue, each)[1]}
    return found | {*to_labels(names).found, *to_labels(names).unknown}


def conflicts(catalogue: Catalogue, mapping: DestinationMapping) -> list[Conflict]:
    """Return what forbids a mapping, by trait; nothing if it may be."""
    traits, segments = ([mapping.trait] if mapping.trait else []), list[AudienceSegment]()
    if mapping.segment is not None:
        traits, nested = catalogue.reads([mapping.segment.tree])
        segments = [mapping.segment, *nested]
    forbidden = set(from_actions(mapping.uses).found)
    found: list[Conflict] = []
    for each in traits:
        for part in catalogue.made_of(each):
            there = {*_of_source(catalogue, part.source), *from_labels(part.labels).found}
            found += _conflicts(mapping, catalogue.sources[part.source], part, there & forbidden)
    for segment in segments:
        source, there_too = _of_merge_rule(catalogue, segment)
        if source is not None:
            found += _conflicts(mapping, source, None, forbidden.intersection(there_too))
    return found


def check(scope: Scope, tx: Tx, mapping: DestinationMapping, sight: Sight | None = None) -> None:
    """Raise ExportControl if something forbids a mapping: a trait or a segment is mapped to a destination."""
    sight = sight or Sight(scope, tx)
    for each in conflicts(sight.catalogue, mapping):
        raise _refusal(sight, each)


def mappings(
    scope: Scope, tx: Tx, segment: str, destination: str, uses: Collection[str]
) -> Iterator[DestinationMapping]:
    """Yield the imported traits and segments of traits that a segment is, or is made of, as they go to a destination."""
    made_of = Lineage(scope, tx).made_of(Place(kind=PlaceKind.SEGMENT, target=segment))
    for place in sorted((each for each in made_of if each.kind in IMPORTED), key=str):
        found = imported.find(scope, tx, place)
        if found is not None and found.kind == "trait":
            if trait := traits.by_number(scope, tx, found.number):
                yield DestinationMapping(destination=destination, uses=uses, trait=trait)
        elif found is not None and (read := audience_segments.by_number(scope, tx, found.number)):
            yield DestinationMapping(destination=destination, uses=uses, segment=read)


def check_segment(scope: Scope, tx: Tx, segment: str, destination: str, uses: Collection[str]) -> None:
    """Raise ExportControl if something forbids that a segment goes to a destination."""
    for each in mappings(scope, tx, segment, destination, uses):
        check(scope, tx, each)


def check_mapped(scope: Scope, tx: Tx) -> None:
    """Raise ExportControl if something forbids what is mapped, after a change of rules, folders or controls."""
    sight: Sight | None = None
    for mapped in MAPPED.values():
        for each in mapped(scope, tx):
            sight = sight or Sight(scope, tx)
            check(scope, tx, each, sight)


def _conflicts(
    mapping: DestinationMapping, source: Source, trait: Trait | None, names: Collection[str]
) -> list[Conflict]:
    return [
        Conflict(
            control=CONTROLS[each],
            source=source,
            trait=trait,
            segment=mapping.segment,
            destination=mapping.destination,
        )
        for each in CONTROLS
        if each in names
    ]


def _of_source(catalogue: Catalogue, number: int) -> Iterable[str]:
    return catalogue.sources[number].controls


def _of_merge_rule(catalogue: Catalogue, segment: AudienceSegment) -> tuple[Source | None, Iterable[str]]:
    """Return the data source whose ids a merge rule goes by, with its controls."""
    source = next((each for each in catalogue.sources.values() if each.name == segment.merge_rule), None)
    return source, () if source is None else source.controls


def _refusal(sight: Sight, found: Conflict) -> ExportControl:
    """Return the error that names the data source, the trait, the segment and the destination, as the caller may see them."""
    source = (
        f"data source {found.source.number} {found.source.name!r}"
        if sight.sees_source(found.source.number)
        else "a data source that you may not see"
    )
    if found.trait is None:
        trait = "the merge rule"
    elif sight.sees_trait(found.trait):
        trait = f"trait {found.trait.number} {found.trait.name!r}"
    else:
        trait = "a trait that you may not see"
    if found.segment is None:
        segment = "alone"
    elif sight.sees_segment(found.segment):
        segment = f"in segment {found.segment.number} {found.segment.name!r}"
    else:
        segment = "in a segment that you may not see"
    label = ""
    if found.control.name not in found.source.controls:
        label = f", for this trait by the label {found.control.label} of its segment of the platform"
    return ExportControl(
        f"{source} has the export control {found.control.name}{label}: {trait}, {segment}, may not go to destination "
        f"{found.destination}, which is for {found.control.action}",
        hint="leave the trait out, take the control off, or use a destination that is not for this",
    )
