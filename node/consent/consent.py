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

from psi.values import U8, Bools

from ..access.audit import date
from ..errors import InvalidInput, NotFound, Refused
from ..inputs.normalise import rule
from ..storage import tables

if TYPE_CHECKING:
    from ..imports.consent_files import ConsentReport
    from ..inputs.queries import Query
    from ..people.data import Snapshot
    from ..project import Project


CODES = ("", "y", "dy", "LI", "CT", "CP", "VI", "PI", "p", "u", "dn", "n")  # a higher number is stricter; "" is nothing
_NUMBERS = {code.lower(): number for number, code in enumerate(CODES)}
UNKNOWN = 255  # in a column of codes: text that is none of them
UNDATED = (1 << 16) - 1  # the basis of a word from a profile import that has no time of its own; shown as UNDATED_BASIS
UNDATED_BASIS = "profile import"
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


Word = tuple[int, int, int]  # one of them: the code, the time and the basis


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What was said, a row each: the code, when (Unix seconds), and on which basis (a number of the project's, 0 none)."""

    codes: U8
    at: npt.NDArray[np.int64]
    bases: npt.NDArray[np.uint16]

    @classmethod
    def nothing(cls, size: int) -> "Words":
        return cls(codes=np.zeros(size, np.uint8), at=np.zeros(size, np.int64), bases=np.zeros(size, np.uint16))

    @classmethod
    def of(cls, codes: U8, at: int) -> "Words":
        """Return what was said at one moment, without a basis."""
        return cls(codes=codes, at=np.full(len(codes), at, np.int64), bases=np.zeros(len(codes), np.uint16))

    @classmethod
    def join(cls, parts: "Sequence[Words]") -> "Words":
        joined = {name: [getattr(each, name) for each in parts] for name in ("codes", "at", "bases")}
        return cls(**{name: np.concatenate(columns) for name, columns in joined.items()})

    def take(self, where: npt.NDArray[Any]) -> "Words":
        return Words(codes=self.codes[where], at=self.at[where], bases=self.bases[where])


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """How many codes words changed, and how many withdrawals stayed against undated words."""

    changed: int
    withdrawals_kept: int


def merge(kept: Words, profiles: npt.NDArray[np.int64], words: Words) -> Noted:
    """Write words into those kept for profiles, in place, where they are newer, or as new and stricter. A basis that
    comes later for the same word is added to it.

    The time of an undated word is only when its file came. So it lifts no no that was said otherwise, and a no or the same
    word said otherwise takes its place whenever that was; said again it is no newer, a no apart. Of two nos, one undated,
    the stricter stays, as of the later time, as said otherwise.
    """
    order = np.lexsort((words.codes, words.at, profiles))
    last = np.ones(len(order), bool)
    last[:-1] = profiles[order][1:] != profiles[order][:-1]
    order = order[last]
    profiles, words = profiles[order], words.take(order)
    now = kept.take(profiles)
    said, empty, same = words.codes != 0, now.codes == 0, words.codes == now.codes
    no, was_no = words.codes >= _DN, now.codes >= _DN
    undated, was_undated = words.bases == UNDATED, now.bases == UNDATED
    to_dated, to_undated = undated & ~was_undated & ~empty, ~undated & was_undated & ~empty
    as_new = words.at == now.at
    wins = empty | (words.at > now.at) | (as_new & (words.codes > now.codes))
    wins |= ~undated & same & as_new & (words.bases != 0)
    wins |= (to_dated & no) | (to_undated & (no | same))
    withdrawn = to_dated & was_no & ~no
    both = (to_dated | to_undated) & no & was_no & said
    wins &= said & ~withdrawn & ~both & ~(undated & same & ~no & ~empty)
    later = np.maximum(words.at, now.at)
    codes = np.where(wins, words.codes, np.where(both, np.maximum(words.codes, now.codes), now.codes))
    at = np.where(wins & ~(to_dated & no), words.at, np.where(wins | both, later, now.at))
    bases = np.where(wins | (both & to_undated), words.bases, now.bases)
    kept.codes[profiles], kept.at[profiles], kept.bases[profiles] = codes, at, bases
    return Noted(
        changed=int((codes != now.codes).sum()),
        withdrawals_kept=int((withdrawn & said).sum()),
    )


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
            check_model(model)
            rows = tables.projects
            tx.execute(rows.update().where(rows.c.id == self._project.id).values(consent_model=model))

    def preview(self, model: str) -> dict[str, Any]:
        """Return how many people another model would let leave and come, as things are now; changes nothing."""
        from ..reports.consent_model import preview

        return preview(self._project, check_model(model))

    def set(
        self, profile: str, value: str, namespace: str | None = None, at: int | None = None, basis: str = ""
    ) -> bool:
        """Note what one profile said, for all of it or for its identities in one namespace; says whether that changed
        anything: the newest time wins, at the same time the stricter. The audit names the profile by number."""
        from ..people.data import Draft

        now = self._project.node.now()
        detail: dict[str, Any] = {"share": value[:20], "namespace": namespace}
        with self._project.act("consent.set", self._project.name, detail=detail) as tx:
            codes = read_codes([value])
            if codes[0] in (0, UNKNOWN):
                raise InvalidInput(f"{value[:20]!r} is not a consent value", hint=f"use one of {LISTED}")
            if at is not None and not 0 <= at <= now:
                raise InvalidInput("that is no time, or one to come", hint="give the time at which the person said it")
            draft = Draft(self._project, tx)
            numbers = draft.base.numbers(np.array([profile.encode()], np.bytes_))
            if numbers[0] < 0:
                raise NotFound("there is no profile with that id", hint="the ids are those of the imported --id column")
            detail["profile"] = int(numbers[0])
            bases = draft.bases([check_basis(basis)])
            words = Words(codes=codes, at=np.array([now if at is None else at], np.int64), bases=bases)
            noted = draft.note_consent(numbers, words, None if namespace is None else rule(namespace).namespace)
            detail["changed"] = bool(noted.changed)
            draft.publish()
        self._project.memberships.join_all()
        return bool(noted.changed)

    def import_(self, path: "Path | str | Query", **options: Any) -> "ConsentReport":
        """Note what a file's profiles said, with the options of `node.consentfiles.import_file`."""
        from ..imports.consent_files import import_file

        report = import_file(self._project, path, **options)
        self._project.memberships.join_all()
        return report

    def show(self, profile: str | None = None) -> dict[str, Any]:
        """Return the model and how many profiles said what; with an id, what that one said, and what may be shared of it.

        `may_be_shared` is what the model and the consent policies on all segments say; None where there is no model, or a
        policy reads what is hidden from whoever acts. Policies on a label are told beside it.
        """
        from ..people.data import Snapshot

        snapshot, model = Snapshot.open(self._project), self._project.consent_model
        noted = {name: snapshot.noted(name) for name in sorted(snapshot.content.get("noted", {}))}
        if profile is None:
            bases = np.bincount(snapshot.profile_consent_basis[:], minlength=1)
            return {
                "model": model,
                "profiles": _counts(snapshot.profile_consent),
                "bases": {snapshot.basis(n): int(bases[n]) for n in np.flatnonzero(bases).tolist() if n},
                "namespaces": {name: _counts(rows["code"]) for name, rows in noted.items()},
            }
        number = int(snapshot.numbers(np.array([profile.encode()], np.bytes_))[0])
        if number < 0:
            raise NotFound("there is no profile with that id", hint="the ids are those of the imported --id column")
        own = np.array([snapshot.profile_consent[number]], np.uint8)
        namespaces = {}
        policies = self._project.consent_policies.judge(number, snapshot)
        met = [each["met"] for each in policies if each["label"] is None]
        for name in sorted({each.partition("/")[0] for each in snapshot.namespaces} | set(noted)):
            rows = noted.get(name, snapshot.noted(name))
            mine = rows[rows["profile"] == number]
            said = np.array([*mine["code"], 0][:1], np.uint8)
            shared = None if model is None else bool(may_share(model, own, said)[0]) and False not in met
            if shared and None in met:
                shared = None
            word = _word(snapshot, *(mine[0][key] for key in ("code", "at", "basis"))) if len(mine) else _word(snapshot)
            namespaces[name] = {**word, "may_be_shared": shared}
        at, basis = snapshot.profile_consent_at[number], snapshot.profile_consent_basis[number]
        said_of_all = _word(snapshot, own[0], at, basis)
        return {"model": model, "profile": profile, **said_of_all, "namespaces": namespaces, "policies": policies}


LISTED = ", ".join(CODES[1:])
MAX_BASIS = 120  # characters


def check_model(model: str) -> str:
    if model not in ("opt-in", "opt-out"):
        raise InvalidInput(f"{model[:20]!r} is not a consent model", hint="use opt-in or opt-out")
    return model


def check_basis(text: str) -> str:
    """Return the basis of a consent, stripped; raises InvalidInput for what is none, or a person's own data."""
    from ..inputs.raw_values import refuse_personal

    text = text.strip()
    if not text.isprintable() or len(text) > MAX_BASIS:
        raise InvalidInput(f"a basis has at most {MAX_BASIS} printable characters", hint="such as GDPR-6-1-a")
    refuse_personal([text], "basis", np.zeros(1, np.int64))
    return text


def _word(snapshot: "Snapshot", code: int = 0, at: int = 0, basis: int = 0) -> dict[str, Any]:
    return {"share": CODES[code] or None, "at": date(int(at)) if code else None, "basis": snapshot.basis(int(basis))}


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
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return -1
