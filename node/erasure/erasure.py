"""Erasing people: out of the newest generation and all older ones, out of what partners gave, out of what is kept for them.

Imports leave them out from then on, unless the caller lets them return.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from psi.errors import VesicaError
from psi.values import Values

from ..access.scope import NothingDone, Scope
from ..audiencemanager import erasing as visitors
from ..destinations import due as destinations
from ..destinations import erasing as at_destinations
from ..errors import InvalidInput, NotAllowed, NotFound
from ..feeds.local import evaluations as local
from ..feeds.receiving import erasing as receiving
from ..feeds.sending import due
from ..governance.visibility import Visibility
from ..inputs.normalise import Reason, check_region, normalise, rule, rule_for_import
from ..inputs.sources import Source
from ..people import audiences, removal, suppressions
from ..people.drafts import Draft
from ..people.snapshots import Snapshot
from ..segments import evaluation
from ..storage.database import Tx
from ..storage.records import Document, Documents
from . import proof, sweeping


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Whom a caller means: by their own ids, listed or in a file, and by identities ("email_sha256=ann@x.com").

    The values are normalised and hashed as an import does; neither they nor the ids are stored or logged.
    """

    ids: Sequence[str] = ()
    file: Path | str | None = None
    identities: Sequence[str] = ()
    region: str | None = None  # of national phone numbers


class Erasure:
    """Takes people out of a project for good."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def find(self, people: People) -> Document:
        """Return how many profiles and visitors somebody means, and how many ids and identities are no profile's."""
        self._scope.require("profile.erase", "profiles")
        with self._scope.refusals("profile.erase", "profiles"), self._scope.read() as tx:
            self._check_sight(tx)
            snapshot = Snapshot.open(self._scope, tx)
            given = _given(snapshot, people)
            profiles, unknown = given.profiles(snapshot)
            known = visitors.find(self._scope, tx, given.kinds)
            known |= visitors.find(self._scope, tx, proof.Traces.of(snapshot, profiles).kinds)
        return {"profiles": len(profiles), "unknown": unknown, "visitors": len(known)}

    def profiles(self, people: People, *, may_return: bool = False, prove: bool = False) -> Document:
        """Erase people, and queue a run of each feed and destination: partners get the exit at once, as do `destinations`.

        `may_return`: the next import may bring them back. With `prove` the outcome lists where they were, and that they are
        no more. Raises NotFound where they are nobody's, NotAllowed for a caller who is limited by labels.
        """
        detail: Document = {}
        before: Documents = []
        there: list[str] = []
        gone = 0  # visitors
        with self._scope.act("profile.erase", "profiles", detail=detail) as tx:
            self._check_sight(tx)
            draft = Draft(self._scope, tx)
            given = _given(draft.base, people)
            profiles, unknown = given.profiles(draft.base)
            at_visitors = visitors.find(self._scope, tx, given.kinds)
            if not profiles and not at_visitors and not prove:
                raise NotFound(
                    "nobody here has that id or identity", hint="the ids are those of the imported id column"
                )
            traces = proof.Traces.of(draft.base, profiles)
            if prove:
                before = proof.places(self._scope, tx, traces)
            if not profiles and not at_visitors:
                raise NothingDone
            there = sorted(name for name, found in at_destinations.kept(self._scope, tx, traces.kinds).items() if found)
            detail |= {"profiles": len(profiles), "unknown": unknown, "may_return": may_return}
            for kinds in (given.kinds, traces.kinds):
                number, had = visitors.take_out(self._scope, tx, kinds)
                gone += number
                if not may_return and number:
                    suppressions.add(self._scope, tx, had)
            if gone:
                detail["visitors"] = gone
            if not may_return:
                suppressions.add(self._scope, tx, traces.kinds)
            if profiles:
                removal.take_out(draft, profiles)
                commit(self._scope, tx, draft, profiles)
            else:
                sweeping.note(self._scope, tx)
        document: Document = {"profiles": len(profiles), "unknown": unknown, "may_return": may_return}
        document["visitors"] = gone
        document |= {"runs": [], "destinations": there}
        if profiles or gone:
            document["runs"] = follow_up(self._scope)
        if prove:
            with self._scope.read() as tx:
                after = {each["place"]: each["found"] for each in proof.places(self._scope, tx, traces)}
                document["left_out"] = bool(suppressions.on_list(self._scope, tx, given.kinds))
            document["places"] = [
                {"place": each["place"], "before": each["found"], "after": after.get(each["place"], 0)}
                for each in before
            ]
        return document

    def readmit(self, people: People) -> int:
        """Let erased people be imported again; return how many ids and identities were left out until now."""
        detail: Document = {}
        with self._scope.act("profile.readmit", "profiles", detail=detail) as tx:
            self._check_sight(tx)
            given = _given(Snapshot.open(self._scope, tx), people)
            lifted = suppressions.lift(self._scope, tx, given.kinds)
            if not lifted:
                raise NotFound("nobody with that id or identity was erased", hint="name all that the person has")
            detail["lifted"] = lifted
        return lifted

    def _check_sight(self, tx: Tx) -> None:
        """Refuse a caller who is limited by labels, whatever is hidden: people are erased from all that there is, and
        what later imports leave out would tell of it."""
        if Visibility(self._scope, tx).limited:
            raise NotAllowed(
                "people are erased from everything, and brought back to it, also where your roles do not let you see it",
                hint="ask somebody whose roles are not limited to labels",
            )


def commit(scope: Scope, tx: Tx, draft: Draft, profiles: BitMap | None = None) -> None:
    """Make a draft that was taken something out of the one generation that there is; `profiles` leave all memberships."""
    if profiles:
        receiving.take_out(scope, tx, profiles)
    evaluation.count_members(scope, tx, draft)
    draft.publish(keep=1)
    sweeping.note(scope, tx)


def follow_up(scope: Scope) -> list[str]:
    """Delete what else has the erased people, and queue what takes them out at destinations and partners; return these."""
    with scope.home.guard.itself():
        sweeping.finish(scope)
    local.follow_from(scope)
    destinations.submit_all(scope)
    return due.submit_all(scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The ids and the normalised identities that a caller gives, by kind as the suppressions have it.

    `header` is an id too, unless it is nobody's: a file of ids needs no header.
    """

    kinds: suppressions.Kinds
    header: bytes | None

    def profiles(self, snapshot: Snapshot) -> tuple[BitMap, int]:
        """Return the profiles that have one of the ids or identities, and how many of these are nobody's."""
        profiles, unknown = BitMap(), 0
        for kind, values in self.kinds.items():
            if not isinstance(values, Values):
                numbers = snapshot.numbers(values)
                profiles |= BitMap(numbers[numbers >= 0].astype(np.uint32))
                unknown += int(((numbers < 0) & (values != (self.header or b""))).sum())
            elif len(distinct := snapshot.distinct(kind)[0]):
                places = audiences.places(distinct, values)
                profiles |= audiences.holders(snapshot, kind, places)
                unknown += len(values) - len(places)
            else:
                unknown += len(values)
        return profiles, unknown


def _given(snapshot: Snapshot, people: People) -> _Given:
    if not (people.ids or people.identities or people.file):
        raise InvalidInput("nobody is named", hint="give ids, a file of ids, or an identity")
    listed, header = ([], None) if people.file is None else _in_file(Path(people.file))
    ids = [*people.ids, *listed]
    given: dict[str, Values | npt.NDArray[np.bytes_]] = {}
    named = {each.strip().encode() for each in ids} - {b""}
    doubtful = None if header is None or header in named else header
    if doubtful is not None:
        named.add(doubtful)
    if named:
        given[suppressions.ID] = np.array(sorted(named), np.bytes_)
    parts: dict[str, list[Values]] = {}
    region = check_region(people.region)
    for text in people.identities:
        for kind, value in _identity(snapshot, text, region):
            parts.setdefault(kind, []).append(value)
    kinds = given | {kind: Values.join(values) for kind, values in parts.items()}
    return _Given(kinds=kinds, header=doubtful)


def _in_file(path: Path) -> tuple[list[str], bytes | None]:
    """Return the ids of a file, those of the column "id" or else of the first, and the header where it may be an id too."""
    source = Source.open(path, [])
    column = "id" if "id" in source.header else source.header[0]
    source.columns = [column]
    ids = [each for batch in source.batches() for each in batch.columns[column]]
    return ids, None if column == "id" else column.strip().encode() or None


def _identity(snapshot: Snapshot, text: str, region: str | None) -> Iterable[tuple[str, Values]]:
    """Yield an identity's value under each rule that its namespace has here."""
    name, is_given, raw = text.partition("=")
    if not is_given:
        raise InvalidInput("an identity is given as NAMESPACE=VALUE", hint="such as email_sha256=ann@example.com")
    try:
        here = any(each.partition("/")[0] == name for each in snapshot.namespaces)
        of_name = rule(name) if here else rule_for_import(name)  # a misspelt one would be nobody's
    except VesicaError:  # its words have the text, which may be the identity itself
        raise InvalidInput("that is no namespace", hint="such as email_sha256=ann@example.com") from None
    rules = {of_name.id, *(each for each in snapshot.namespaces if each.partition("/")[0] == name)}
    for each in sorted(rules):
        found = normalise(rule(each), [raw], region=region)
        if not found.keep[0]:
            raise InvalidInput(
                f"that is no identity of {name}: {Reason(int(found.reasons[0])).text}", hint="give it whole"
            )
        yield each, found.values
