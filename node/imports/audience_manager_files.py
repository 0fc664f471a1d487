"""Data files of Audience Manager: people's traits and segments as they were sent to it, and as it sent them on.

Sources (Experience League): "Inbound Data File Contents: Syntax, Invalid Characters, Variables, and Examples" (an id, a
tab, then d_sid=TRAIT, d_unsid=TRAIT, ic=INTEGRATION CODE, trait ids or key-value pairs), "FTP Name and File Size
Requirements for Inbound Data Files" (ftp_dpm_DPID[_TARGET]_TIME.sync or .overwrite), "Outbound Data File Name: Syntax
and Examples" and "Outbound Template Macros" (an id, a tab, SEGMENT_LIST, perhaps REMOVED_SEGMENT_LIST; iter or full),
"Global Data Sources" (the ids of device ids), "Trait API Methods" (the list of traits).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from psi.errors import Remedy

from ..errors import InvalidInput
from ..inputs.sources import ReadProgress, Source
from .records import Export, Extent, Identity, Namespace, Person
from .segment_names import Names

KIND = "Audience Manager"

_DEVICES = {"20914": "gaid", "20915": "idfa"}  # global data sources
_INBOUND = re.compile(r"ftp_dpm_(?P<source>\d+)(?:_(?P<target>\d+))?_\d+\.(?P<mode>sync|overwrite)(?:\.\d+)?(?:\.gz)?")
_OUTBOUND = re.compile(
    r"(?i:ftp|s3|http)(?:_[\w-]*?)?(?:_(?P<source>\d+))?(?:_[\w-]+?)??_(?P<mode>iter|full)_\d+\.\w+(?:\.gz)?"
)
_EXTENTS = {
    "sync": Extent.CHANGES,
    "overwrite": Extent.PEOPLE,
    "iter": Extent.CHANGES,
    "full": Extent.WHOLE,
}
_TOKEN = re.compile(  # possessive throughout: a line has up to 16 million characters
    r"""(?:\s*+"(?P<quoted>[^"]*+)"\s*+|(?P<plain>[^",;|=]*+))"""
    r"""(?:==?+(?:\s*+"(?P<quoted_value>[^"]*+)"\s*+|(?P<value>[^",;|]*+)))?+(?:[,;|]|\Z)"""
)
_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileName:
    """What a data file's name says: the data source of its ids, that of its traits, and how far it speaks."""

    source: str
    extent: Extent | None
    target: str = ""
    inbound: bool = False

    @classmethod
    def parse(cls, name: str) -> "FileName":
        if found := _INBOUND.fullmatch(name):
            target = found["target"] or found["source"]
            return cls(source=found["source"], extent=_EXTENTS[found["mode"]], target=target, inbound=True)
        if found := _OUTBOUND.fullmatch(name):
            return cls(source=found["source"] or "", extent=_EXTENTS[found["mode"]])
        return cls(source="", extent=None)

    @property
    def namespace(self) -> str:
        """What the ids are: device ids of a global data source, or of a namespace called after the data source."""
        return _DEVICES.get(self.source, f"dpid-{self.source}" if self.source else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The memberships of one line, by id of trait or segment, and its signals that stand for neither."""

    segments: Mapping[str, bool]
    signals: list[str]


def open_export(
    path: Path | str,
    names: Names,
    *,
    namespace: str = "",
    own_ids: bool = False,
    progress: ReadProgress | None = None,
) -> Export:
    """Open a data file, whose name says what its ids are unless `namespace` does; with `own_ids` they are profile ids.

    Lines about one person add up. Raises InvalidInput.
    """
    source = Source.of_lines(path, KIND)
    said = FileName.parse(source.name)
    text = namespace or said.namespace
    if not text and not own_ids:
        raise InvalidInput(
            f"the name {source.name} does not say what the ids are",
            hint="say that they are your own profile ids, or give their namespace",
            remedy=Remedy("profile.import-from.audience-manager", {"file": str(path), "namespace": "NAME"}),
        )
    kind = Namespace.parse(text) if text and not own_ids else None
    dropped: dict[str, list[int]] = defaultdict(list)
    return Export(
        source=source,
        people=_people(source, names, kind, dropped, progress),
        extent=said.extent or Extent.CHANGES,
        dropped=dropped,
    )


def _people(
    source: Source,
    names: Names,
    kind: Namespace | None,
    dropped: Mapping[str, list[int]],
    progress: ReadProgress | None,
) -> Iterator[Person]:
    """Yield each person once, with the memberships of all their lines."""
    first: dict[str, int] = {}
    together: dict[str, dict[str, bool]] = {}
    number = 0
    for number, text in source.lines():
        if not text.strip():
            continue
        person, tab, rest = re.sub("\x01", "\t", text).partition("\t")
        found = parse(rest, names) if tab and person.strip() else None
        if found is None:
            source.rejected["not an id, a tab and a list of traits or segments"].append(number)
            continue
        for signal in found.signals:
            dropped[f"signal {signal}, which is no trait or segment"].append(number)
        first.setdefault(person.strip(), number)
        together.setdefault(person.strip(), {}).update(found.segments)
    if progress is not None:
        progress(number, number)
    for person, segments in together.items():
        identities = [] if kind is None else [Identity(kind, person, True)]
        yield Person(line=first[person], id=person if kind is None else "", identities=identities, segments=segments)


def parse(text: str, names: Names) -> Line | None:
    """Read what follows a line's id; None where that is broken. A second column lists what the person has left."""
    segments: dict[str, bool] = {}
    signals: list[str] = []
    for column, part in enumerate(text.split("\t")):
        found = tokens(part)
        if found is None:
            return None
        for key, value in found:
            if value is None:
                wanted, is_in = key, column == 0
            else:
                wanted, is_in = value.strip(), key.lower() != "d_unsid" and column == 0
                if key.lower() == "ic":
                    wanted = names.codes.get(wanted, f"ic-{wanted}")
                elif key.lower() not in ("d_sid", "d_unsid", "segid"):
                    signals.append(key if _ID.fullmatch(key) and len(key) <= 40 else "?")
                    continue
            if not key and value is None:
                continue
            if not _ID.fullmatch(wanted):
                return None
            segments[wanted] = is_in
    return Line(segments=segments, signals=signals)


def tokens(text: str) -> list[tuple[str, str | None]] | None:
    """Return the keys of a list of traits or key-value pairs, each with its value if it has one; None where it is broken."""
    found: list[tuple[str, str | None]] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.end() == place:
            return None
        place = match.end()
        quoted, plain, quoted_value, value = match.groups()
        key = (plain if quoted is None else quoted).strip()
        found.append((key, value.strip() if value is not None else quoted_value))
    return found
