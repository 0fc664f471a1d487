"""Inbound files: signals and traits by id, as a sync that adds or an overwrite that replaces, with a receipt.

A file goes in chunks, each of which is there as a whole or not at all; the same file again changes nothing of who has which
trait. Sources (Experience League): "FTP Name and File Size Requirements for Inbound Data Files", "Sample Message to Partners
after Inbound Processing".
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyroaring import BitMap

from psi.errors import Remedy

from ..access.permissions import Permission
from ..access.scope import Scope
from ..errors import InvalidInput, NotFound
from ..imports.audience_manager_files import FileName
from ..imports.records import Extent
from ..inputs.normalise import Rule, normalise, rule
from ..inputs.sources import ReadProgress
from ..storage.records import Document
from . import sources, traits
from .inbound_lines import BROKEN, LINES_OF_AN_ID, NO_ID, NOT_UTF8, TOO_LONG, TOO_MANY, lines, parse
from .receipt import Receipt
from .receiving import Call, Rows, receive_rows
from .records import SourceKind, TraitKind
from .visitors import NOBODY, opened

CHUNK, CHUNK_BYTES = 32_768, 1 << 22  # records in a transaction, and bytes of their distinct lists
KEPT, MAX_KEPT = 10_000, 1_000  # lists of lines that are kept as they were read, and the characters of one
ACT = "audience.load"


class _Undone(Exception):
    """Raised to take back what a rehearsal has written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A file to load: the data sources of its ids and of its traits, and how many records it has.

    `repeated` are the hashes of ids with more lines than are taken.
    """

    path: Path
    rule: Rule
    source: int
    target: int
    overwrite: bool
    records: int
    repeated: frozenset[int]


@dataclass(slots=True)
class _Records:
    """Lines as they were read: what each says is a place in `asked`, as most say what others do."""

    lines: "array[int]" = field(default_factory=lambda: array("q"))
    ids: list[str] = field(default_factory=list)
    which: "array[int]" = field(default_factory=lambda: array("q"))
    asked: "list[_Asked | None]" = field(default_factory=list)  # None: broken
    places: dict[bytes, int] = field(default_factory=dict)  # in `asked`, by the list of a line
    size: int = 0  # bytes of these lists


class _Asked(NamedTuple):
    """What the list of a line asks for; `traits` counts those that it names, `unknown` and `failed` are some of them."""

    signals: tuple[tuple[str, str], ...]
    realise: tuple[int, ...]
    remove: tuple[int, ...]
    traits: int
    unknown: int
    failed: int


_NOTHING = _Asked((), (), (), 0, 0, 0)  # of a broken line


@dataclass(slots=True)
class _Traits:
    """The traits of a project: the data source of each that can be realised outright, and numbers by integration code."""

    source_of: dict[int, int]
    days: dict[int, int]
    by_code: dict[tuple[int, str], int]

    @classmethod
    def read(cls, scope: Scope) -> "_Traits":
        with scope.read() as tx:
            found = [each for each in traits.brief(scope, tx) if each.kind is not TraitKind.FOLDER]
        return cls(
            {each.number: each.source for each in found},
            {each.number: each.days for each in found},
            {(each.source, each.integration_code): each.number for each in found if each.integration_code},
        )


def load(
    scope: Scope, paths: Sequence[Path | str], *, rehearse: bool = False, progress: ReadProgress | None = None
) -> list[Document]:
    """Load inbound files, parts of the same one together, and return a receipt for each data source.

    All names are looked at first: one that is refused leaves all of them. With `rehearse` nothing is changed.
    Raises InvalidInput, NotFound.
    """
    with scope.refusals(ACT, "files"):
        files = [look_at(scope, Path(path)) for path in paths]
    together: dict[tuple[int, int, bool], list[Inbound]] = {}
    for file in files:
        together.setdefault((file.source, file.target, file.overwrite), []).append(file)
    total = sum(file.records for file in files)
    done = 0

    def advance(records: int) -> None:
        nonlocal done
        done += records
        if progress is not None:
            progress(done, total)

    receipts = []
    for some in together.values():
        names = [each.path.name for each in some]
        with scope.act(ACT, ", ".join(names)[:255], detail={"source": some[0].target, "rehearsal": rehearse}):
            pass
        loading = _Loading(scope, some)
        for each in loading.run(rehearse=rehearse):
            advance(each)
        receipts.append(loading.receipt.as_dict())
        with scope.act("audience.loaded", ", ".join(names)[:255], detail=dict(loading.receipt.counts())):
            pass
    return receipts


def look_at(scope: Scope, path: Path) -> Inbound:
    """Return what a file's name and first look say; raises InvalidInput and NotFound with what to do."""
    said = FileName.parse(path.name)
    if not said.inbound:
        raise InvalidInput(
            f"{path.name[:80]!r} is not the name of an inbound file: it says whose ids and traits are in it",
            hint="name it ftp_dpm_SOURCE_TIME.sync or ftp_dpm_SOURCE_TARGET_TIME.overwrite, its parts .1, .2, packed .gz",
        )
    with scope.read() as tx:
        source, target = (sources.by_number(scope, tx, int(each[:10])) for each in (said.source, said.target))
        allowed = scope.home.guard.sources(tx, Permission.RECEIVE_AUDIENCE, scope.id)
        if target is not None and allowed is not None and target.number not in allowed:
            target = None  # it is hidden
    for number, found in ((said.source, source), (said.target, target)):
        if found is None:
            raise NotFound(
                f"there is no data source {number[:20]}",
                hint="see which there are",
                remedy=Remedy("audience.source.list"),
            )
    assert source is not None
    assert target is not None
    if target.kind is SourceKind.GLOBAL:
        raise InvalidInput(
            f"{path.name[:80]} has ids of {source.name}, which has no traits: the name has to say whose traits these are",
            hint="put the number of that data source after the first one, as in ftp_dpm_20914_2000000_TIME.sync",
        )
    if source.namespace is None:
        raise InvalidInput(f"the data source {source.number} has no ids of people", hint="name that of the ids")
    records, repeated = _count(path)
    if not records:
        raise InvalidInput(
            f"{path.name} is empty", hint="an inbound file has at least one line: an id, a tab and a list"
        )
    return Inbound(
        path=path,
        rule=rule(source.namespace),
        source=source.number,
        target=target.number,
        overwrite=said.extent is Extent.PEOPLE,
        records=records,
        repeated=repeated,
    )


def _count(path: Path) -> tuple[int, frozenset[int]]:
    """Return how many records a file has, and the hashes of ids of which it has too many."""
    hashes = array("q", (hash((line or b"").partition(b"\t")[0].strip()) for _, line in lines(path)))
    if len(hashes) <= LINES_OF_AN_ID:
        return len(hashes), frozenset()
    found, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
    return len(hashes), frozenset(found[counts > LINES_OF_AN_ID].tolist())


@dataclass(slots=True)
class _Loading:
    """Files of the same data sources, on their way in."""

    scope: Scope
    files: list[Inbound]
    receipt: Receipt = field(init=False)
    _traits: _Traits = field(init=False)
    _listed: BitMap = field(default_factory=BitMap)
    _stored: BitMap = field(default_factory=BitMap)
    _realised: dict[int, BitMap] = field(default_factory=dict)
    _asked: dict[bytes, _Asked | None] = field(default_factory=dict)  # by the list of a line: many lines have the same

    def __post_init__(self) -> None:
        self.receipt = Receipt(files=[each.path.name for each in self.files], started=self.scope.home.now())
        self._traits = _Traits.read(self.scope)

    def run(self, *, rehearse: bool) -> Iterator[int]:
        """Load the files, and yield how many records each chunk had."""
        if not rehearse:
            yield from self._run()
            return
        done: list[int] = []
        visitors = opened(self.scope)
        try:
            with visitors.begin():
                done += self._run()
                raise _Undone
        except _Undone:
            visitors.file.overwrite_deleted()
        yield from done

    def _run(self) -> Iterator[int]:
        for file in self.files:
            for records in self._chunks(file):
                self._apply(file, records)
                yield len(records.ids)
        if self.files[0].overwrite:
            self._take_others(self.files[0].target)
        self.receipt.devices = len(self._stored)
        self.receipt.ended = self.scope.home.now()

    def _chunks(self, file: Inbound) -> Iterator[_Records]:
        """Yield the lines of a file that have an id and something behind it."""
        receipt, seen, found = self.receipt, dict[bytes, int](), _Records()
        for number, line in lines(file.path):
            receipt.received += 1
            if line is None:
                receipt.reject(TOO_LONG, number)
                continue
            given, tab, rest = line.partition(b"\t")
            given = given.strip()
            if not tab or not given:
                receipt.reject(NO_ID, number)
                continue
            if file.repeated and hash(given) in file.repeated:
                seen[given] = seen.get(given, 0) + 1
                if seen[given] > LINES_OF_AN_ID:
                    receipt.reject(TOO_MANY, number)
                    continue
            try:
                text, place = given.decode(), found.places.get(rest)
                if place is None:
                    asked = self._ask(file, rest)
                    place = found.places[rest] = len(found.asked)
                    found.asked.append(asked)
                    found.size += len(rest)
            except UnicodeDecodeError:
                receipt.reject(NOT_UTF8, number)
                continue
            found.lines.append(number)
            found.ids.append(text)
            found.which.append(place)
            if len(found.ids) == CHUNK or found.size > CHUNK_BYTES:
                yield found
                found = _Records()
        if found.ids:
            yield found

    def _ask(self, file: Inbound, rest: bytes) -> _Asked | None:
        """Return what the list of a line asks for, as it was read before, None for a broken one."""
        if rest in self._asked:
            return self._asked[rest]
        asked = self._read(file, rest.decode())
        if len(self._asked) >= KEPT:
            self._asked.clear()
        if len(rest) <= MAX_KEPT:
            self._asked[rest] = asked
        return asked

    def _apply(self, file: Inbound, records: _Records) -> None:
        receipt, now = self.receipt, self.scope.home.now()
        normalised = normalise(file.rule, records.ids, form="hashed" if file.rule.hashed else None)
        # No file that an id leaves in could have one in a line that is not printable.
        printable = np.fromiter(map(str.isprintable, records.ids), bool, len(records.ids))
        which, valid = np.array(records.which, np.intp), normalised.keep & printable
        invalid = len(valid) - int(valid.sum())
        if file.rule.namespace == "ecid":
            receipt.invalid_aam_ids += invalid
        else:
            receipt.invalid_device_ids += invalid
        whole = np.array([asked is not None for asked in records.asked])[which]
        for place in np.flatnonzero(valid & ~whole).tolist():
            receipt.reject(BROKEN, records.lines[place])
        taken = valid & whole
        which = which[taken]
        if not len(which):
            return
        every = [asked or _NOTHING for asked in records.asked]
        for asked, count in zip(every, np.bincount(which, minlength=len(every)).tolist(), strict=True):
            receipt.signals += asked.traits * count
            receipt.unused_signals += asked.unknown * count
            receipt.failed_validation += asked.failed * count
            receipt.failed_records += count if asked.failed else 0
        only = (file.target,)
        calls = [Call((), asked.signals, asked.realise, asked.remove, now, only=only) for asked in every]
        received = receive_rows(self.scope, Rows(file.source, normalised.values.take(taken), calls, which), file.target)
        receipt.no_matching_id += received.left_out
        receipt.signals += received.signals
        receipt.unused_signals += received.unused
        receipt.realised += received.realised
        receipt.removed += received.removed
        visitors, there = received.visitors, received.visitors != NOBODY
        kept = np.array([bool(has or call.remove) for has, call in zip(received.traits, calls, strict=True)])[which]
        self._stored |= BitMap(visitors[there & kept])
        receipt.no_trait_realised += int((there & ~kept).sum())
        if file.overwrite:
            self._listed |= BitMap(visitors[there])
            for place, visitor in zip(which[there].tolist(), visitors[there].tolist(), strict=True):
                for trait in received.traits[place]:
                    self._realised.setdefault(trait, BitMap()).add(visitor)

    def _read(self, file: Inbound, rest: str) -> _Asked | None:
        """Return what the list of a line asks for, None for a broken one."""
        known, line = self._traits, parse(rest)
        if line is None or not (rest.strip() or file.overwrite):
            return None
        signals = list(line.signals)
        wanted = {trait: has for trait, has in line.traits if has or not file.overwrite}
        for each in line.bare:
            if int(each) in known.source_of:
                wanted[int(each)] = True
            else:
                signals.append(("ic", each))
        own = {trait: has for trait, has in wanted.items() if known.source_of.get(trait) == file.target}
        unknown = sum(trait not in known.source_of for trait in wanted)
        by_code = filter(None, (known.by_code.get((file.target, code)) for code in line.codes))
        return _Asked(
            signals=tuple(signals),
            realise=(*(trait for trait, has in own.items() if has), *by_code),
            remove=tuple(trait for trait, has in own.items() if not has),
            traits=len(wanted),
            unknown=unknown,
            failed=len(wanted) - len(own) - unknown,
        )

    def _take_others(self, target: int) -> None:
        """Take from the listed ids the traits of the target data source that no line of theirs has."""
        visitors = opened(self.scope)
        with visitors.begin():
            for trait, source in self._traits.source_of.items():
                if source != target:
                    continue
                others = (visitors.members(trait, self._traits.days[trait]) & self._listed) - self._realised.get(
                    trait, BitMap()
                )
                if others:
                    visitors.remove(trait, others)
                    self.receipt.removed += len(others)
