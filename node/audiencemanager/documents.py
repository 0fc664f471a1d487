"""Data sources, folders, traits and segments of traits as documents for front ends, as the caller may see them."""

from collections import Counter
from collections.abc import Callable

from ..storage.records import Document, Documents
from . import controls, folders, uses
from .members import Members
from .records import AudienceSegment, Folder, Source, Trait
from .sight import Sight


def sources(sight: Sight) -> Documents:
    """Return the data sources, each with how many traits and segments it has."""
    counted = _counted(sight, "source")
    return [source(each) | counted(each.number) for each in sight.sources()]


def source(found: Source) -> Document:
    """Return a data source, with the labels and actions that its export controls are on the platform."""
    return {
        "number": found.number,
        "name": found.name,
        "kind": found.kind,
        "namespace": found.namespace,
        "integration_code": found.integration_code,
        "controls": list(found.controls),
        "labels": list(controls.to_labels(found.controls).found),
        "actions": list(controls.to_actions(found.controls).found),
        "created": found.created or None,
    }


def all_folders(sight: Sight) -> Documents:
    """Return the folders by their path, each with how many traits and segments are in it."""
    counted = _counted(sight, "folder")
    rows = [folder(sight, each) | counted(each.number) for each in sight.catalogue.folders.values()]
    return sorted(rows, key=lambda row: str(row["path"]))


def folder(sight: Sight, found: Folder) -> Document:
    return {"number": found.number, "name": found.name, "path": path(sight, found.number), "parent": found.parent}


def path(sight: Sight, number: int) -> str | None:
    """Return where a folder is, "Retail / Shoes"; None at the top."""
    return " / ".join(each.name for each in folders.path(sight.catalogue.folders, number)) or None


def traits(sight: Sight, members: Members) -> Documents:
    """Return the traits by number."""
    return [_trait(sight, members, each) for each in sight.traits()]


def trait(sight: Sight, members: Members, found: Trait) -> Document:
    """Return a trait with the export controls that it is under, and the segments that read it."""
    labels, source = controls.from_labels(found.labels), sight.catalogue.sources[found.source]
    here = {*source.controls, *labels.found}
    return _trait(sight, members, found) | {
        "description": found.description,
        "rule": found.rule,
        "integration_code": found.integration_code,
        "labels": list(found.labels),
        "controls": [each for each in controls.CONTROLS if each in here],
        "labels_without_control": list(labels.unknown),
        "segments": [_named(each) for each in uses.read_by(sight, found) if sight.sees_segment(each)],
        "created": found.created,
    }


def segments(sight: Sight, members: Members) -> Documents:
    """Return the segments of traits by number."""
    return [_segment(sight, members, each) for each in sight.segments()]


def segment(sight: Sight, members: Members, found: AudienceSegment) -> Document:
    """Return a segment of traits, with the traits that it is made of, also by way of other segments."""
    read_traits, read_segments = sight.catalogue.reads([found.tree])
    return _segment(sight, members, found) | {
        "description": found.description,
        "integration_code": found.integration_code,
        "merge_rule": found.merge_rule or None,
        "traits": [_named(each) for each in read_traits],
        "made_of": [_named(each) for each in read_segments],
        "segments": [_named(each) for each in uses.read_by(sight, found) if sight.sees_segment(each)],
        "labels": sorted(controls.labels_of(sight.catalogue, read_traits, [found, *read_segments])),
        "created": found.created,
    }


def _trait(sight: Sight, members: Members, found: Trait) -> Document:
    return {
        "number": found.number,
        "name": found.name,
        "kind": found.kind,
        "source": found.source,
        "source_name": sight.catalogue.sources[found.source].name,
        "folder": path(sight, found.folder),
        "days": found.days,
        "members": len(members.of_trait(found.number)),
    }


def _segment(sight: Sight, members: Members, found: AudienceSegment) -> Document:
    return {
        "number": found.number,
        "name": found.name,
        "rule": found.rule,
        "source": found.source,
        "source_name": sight.catalogue.sources[found.source].name,
        "folder": path(sight, found.folder),
        "members": len(members.of_segment(found.number)),
    }


def _named(found: Trait | AudienceSegment) -> Document:
    return {"number": found.number, "name": found.name}


def _counted(sight: Sight, column: str) -> Callable[[int], Document]:
    """Return what says how many traits and segments that the caller may see have a number in a column."""
    traits, segments = (
        Counter(getattr(each, column) for each in found) for found in (sight.traits(), sight.segments())
    )
    return lambda number: {"traits": traits[number], "segments": segments[number]}
