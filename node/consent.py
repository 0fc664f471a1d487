"""Consent: who said what about sharing, and the pure decision that follows.

A profile-level no beats everything; a profile-level yes or nothing leaves it to what was said for single namespaces.
The codes are those of Adobe's consent fields: y, n, p(ending), u(nknown), dy and dn (defaults), and five legal bases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from psi.values import U8

from . import tables
from .errors import InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    from .project import Project
    from .sources import Progress

Bools = npt.NDArray[np.bool_]

CODES = ("", "y", "dy", "LI", "CT", "CP", "VI", "PI", "p", "u", "dn", "n")  # a higher number is stricter; "" is nothing
_NUMBERS = {code.lower(): number for number, code in enumerate(CODES)}
UNKNOWN = 255  # in a column of codes: text that is none of them
_Y, _DN, _N = CODES.index("y"), CODES.index("dn"), CODES.index("n")


def read_codes(texts: Sequence[str]) -> U8:
    """Return the code of each text, UNKNOWN where it is none."""
    return np.fromiter((_NUMBERS.get(text.strip().lower(), UNKNOWN) for text in texts), np.uint8, len(texts))


def opted_out(profile: U8, identity: U8) -> Bools:
    """Say which identities never enter a match: a no (n, dn) of the profile, or of the identity. Codes, uint8 (n,)."""
    return np.asarray((profile >= _DN) | (identity >= _DN), bool)


def may_share(model: str, profile: U8, identity: U8) -> Bools:
    """Say which identities may be released under the sender's model; codes as in `opted_out`.

    Opt-out: all but no. Opt-in: only a yes, the identity's own if it has one, else the profile's.
    """
    if model == "opt-out":
        return ~opted_out(profile, identity)
    if model != "opt-in":
        raise ValueError(model)
    return np.asarray((profile <= _Y) & (np.where(identity, identity, profile) == _Y), bool)


def merge(
    kept: U8, kept_at: npt.NDArray[np.int64], profiles: npt.NDArray[np.int64], codes: U8, at: npt.NDArray[np.int64]
) -> int:
    """Write new codes into `kept` in place where they are newer, or as new and stricter; returns how many changed."""
    order = np.lexsort((codes, at, profiles))
    last = np.ones(len(order), bool)
    last[:-1] = profiles[order][1:] != profiles[order][:-1]
    order = order[last]
    profiles, codes, at = profiles[order], codes[order], at[order]
    wins = (kept[profiles] == 0) | (at > kept_at[profiles]) | ((at == kept_at[profiles]) & (codes > kept[profiles]))
    wins &= codes != 0
    changed = int((codes[wins] != kept[profiles[wins]]).sum())
    kept[profiles[wins]], kept_at[profiles[wins]] = codes[wins], at[wins]
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentReport:
    """What a consent import did; line numbers per reason for the rows that it did not take."""

    rows: int
    accepted: int
    changed: int
    rejected: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "accepted": self.accepted,
            "changed": self.changed,
            "rejected": self.rejected,
        }


class Consents:
    def __init__(self, project: "Project") -> None:
        self._project = project

    def require_model(self, tx: Connection | None = None) -> str:
        """Return the project's consent model; raises Refused with the command that chooses one."""
        model: str | None = self._project.row(tx).consent_model
        if model is None:
            raise Refused(
                f"project {self._project.name} has no consent model",
                hint="choose one: vesica consent model opt-in, or vesica consent model opt-out",
            )
        return model

    def set_model(self, model: str) -> None:
        """Choose who is shared when nothing was said; the next run applies it."""
        detail: dict[str, Any] = {"model": model[:20], "before": self._project.consent_model}
        with self._project.act("consent.model", self._project.name, detail=detail) as tx:
            if model not in ("opt-in", "opt-out"):
                raise InvalidInput(f"{model[:20]!r} is not a consent model", hint="use opt-in or opt-out")
            rows = tables.projects
            tx.execute(rows.update().where(rows.c.id == self._project.id).values(consent_model=model))

    def set(self, profile: str, value: str, namespace: str | None = None, at: int | None = None) -> bool:
        """Note what one profile said, for all of it or for its identities in one namespace; says whether that changed
        anything: the newest time wins, at the same time the stricter. The audit names the profile by number."""
        from .data import Draft

        now = self._project.node.now()
        detail: dict[str, Any] = {"share": value[:20], "namespace": namespace}
        with self._project.act("consent.set", self._project.name, detail=detail) as tx:
            codes = read_codes([value])
            if codes[0] in (0, UNKNOWN):
                raise InvalidInput(f"{value[:20]!r} is not a consent value", hint=f"use one of {_LISTED}")
            if at is not None and not 0 <= at <= now:
                raise InvalidInput("that is no time, or one to come", hint="give the time at which the person said it")
            draft = Draft(self._project, tx)
            numbers = draft.base.numbers(np.array([profile.encode()], np.bytes_))
            if numbers[0] < 0:
                raise NotFound("there is no profile with that id", hint="the ids are those of the imported --id column")
            detail["profile"] = int(numbers[0])
            when = np.array([now if at is None else at], np.int64)
            if namespace is None:
                changed = draft.note_consent(numbers, codes, when)
            else:
                changed = draft.note_consent_in(_namespace(namespace), numbers, codes, when)
            detail["changed"] = bool(changed)
            draft.publish()
        self._project.received.join_all()
        return bool(changed)

    def import_(
        self,
        path: Path | str,
        *,
        id_column: str,
        consent_column: str,
        namespace: str | None = None,
        time_column: str | None = None,
        progress: "Progress | None" = None,
    ) -> ConsentReport:
        """Note what a file's profiles said, at the times of a column (ISO 8601 or Unix seconds) or now."""
        from .data import Draft
        from .importer import tally
        from .sources import Source

        now = self._project.node.now()
        detail: dict[str, Any] = {"namespace": namespace}
        with self._project.act("consent.import", self._project.name, detail=detail) as tx:
            columns = [id_column, consent_column, *([time_column] if time_column else [])]
            source = Source.open(path, columns)
            draft, name = Draft(self._project, tx), _namespace(namespace) if namespace else None
            rows = 0
            taken: list[tuple[npt.NDArray[np.int64], U8, npt.NDArray[np.int64]]] = []
            for batch in source.batches(progress):
                ids = np.array([text.strip().encode() for text in batch.columns[id_column]], np.bytes_)
                numbers, codes = draft.base.numbers(ids), read_codes(batch.columns[consent_column])
                at = np.full(len(ids), now, np.int64)
                if time_column:
                    at = np.fromiter(map(read_time, batch.columns[time_column]), np.int64, len(ids))
                good = np.ones(len(ids), bool)
                for reason, bad in (
                    ("no such profile", numbers < 0),
                    ("not a consent value", (codes == 0) | (codes == UNKNOWN)),
                    ("not a time, or one to come", (at < 0) | (at > now)),
                ):
                    source.rejected[reason] += batch.lines[bad & good].tolist() if (bad & good).any() else []
                    good &= ~bad
                rows += len(ids)
                taken.append((numbers[good], codes[good], at[good]))
            broken = sum(map(len, source.rejected.values())) - (rows - sum(len(each[0]) for each in taken))
            rejected = {reason: tally(lines) for reason, lines in source.rejected.items() if lines}
            numbers, codes, at = (np.concatenate(column) for column in zip(*taken, strict=True)) if taken else _NOTHING
            if not len(numbers):
                raise InvalidInput(
                    f"no row of {Path(path).name} could be taken: {', '.join(rejected) or 'it has none'}",
                    hint=f"consent values are {_LISTED}",
                )
            note = (
                draft.note_consent(numbers, codes, at)
                if name is None
                else draft.note_consent_in(name, numbers, codes, at)
            )
            draft.publish()
            detail |= {"rows": rows + broken, "changed": note}
        self._project.received.join_all()
        return ConsentReport(rows=rows + broken, accepted=len(numbers), changed=note, rejected=rejected)

    def show(self, profile: str | None = None) -> dict[str, Any]:
        """Return the model and how many profiles said what; with an id, what that one said and may be shared."""
        from .data import Snapshot

        snapshot, model = Snapshot.open(self._project), self._project.consent_model
        noted = {name: snapshot.noted(name) for name in sorted(snapshot.content.get("noted", {}))}
        if profile is None:
            return {
                "model": model,
                "profiles": _counts(snapshot.profile_consent),
                "namespaces": {name: _counts(rows["code"]) for name, rows in noted.items()},
            }
        number = int(snapshot.numbers(np.array([profile.encode()], np.bytes_))[0])
        if number < 0:
            raise NotFound("there is no profile with that id", hint="the ids are those of the imported --id column")
        own = np.array([snapshot.profile_consent[number]], np.uint8)
        namespaces = {}
        for name in sorted({each.partition("/")[0] for each in snapshot.namespaces} | set(noted)):
            rows = noted.get(name, snapshot.noted(name))
            said = np.array([*rows["code"][rows["profile"] == number], 0][:1], np.uint8)
            shared = None if model is None else bool(may_share(model, own, said)[0])
            namespaces[name] = {"share": CODES[said[0]] or None, "may_be_shared": shared}
        at = int(snapshot.profile_consent_at[number])
        return {
            "model": model,
            "profile": profile,
            "share": CODES[own[0]] or None,
            "at": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if own[0] else None,
            "namespaces": namespaces,
        }


_LISTED = ", ".join(CODES[1:])
_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64))


def _namespace(text: str) -> str:
    from .normalize import rule

    return rule(text).namespace


def _counts(codes: npt.NDArray[Any]) -> dict[str, int]:
    counts = np.bincount(np.asarray(codes, np.uint8), minlength=len(CODES))
    return {CODES[number] or "none": int(count) for number, count in enumerate(counts) if count}


def read_time(text: str) -> int:
    """Return Unix seconds, -1 for what is no time; without a zone it is UTC."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return -1
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
