"""The consent of a project's people: its model, and what single people said."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from psi.errors import Remedy

from ..access.audit import date
from ..access.scope import Scope
from ..errors import InvalidInput, NotAllowed
from ..governance.visibility import Visibility
from ..imports.tcf import NEEDED, Needed
from ..inputs.normalise import rule
from ..people import audiences
from ..people.changes import announce
from ..people.consent import CODES, LISTED, UNKNOWN, Word, Words, check_basis, check_model, may_share, read_codes
from ..people.drafts import Draft
from ..people.snapshots import Snapshot
from ..storage.database import Tx
from ..storage.records import Document

if TYPE_CHECKING:
    from ..imports.consent_files import ConsentReport
    from ..inputs.queries import Query
    from ..inputs.sources import ReadProgress


class Consents:
    """The consent of a project's people: its model, and what they said."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def require_model(self, tx: Tx | None = None) -> str:
        """Return the project's consent model; raises NotAllowed where nobody has chosen one."""
        model = self._scope.row(tx).consent_model
        if model is None:
            raise NotAllowed(
                f"project {self._scope.name} has no consent model",
                hint="choose one",
                remedy=Remedy("consent.model"),
            )
        return model

    def set_model(self, model: str) -> None:
        """Choose who is shared when nothing was said; the next run applies it."""
        detail: Document = {"model": model[:20], "before": self._scope.consent_model}
        with self._scope.act("consent.model", self._scope.name, detail=detail) as tx:
            self._scope.change(tx, consent_model=check_model(model))

    def set(
        self, profile: str, value: str, namespace: str | None = None, at: int | None = None, basis: str = ""
    ) -> bool:
        """Note what one profile said, for all of it or for its identities in one namespace, and return whether anything
        changed.

        The newest time wins, at the same time the stricter word. The audit log has the profile's number.
        """
        now = self._scope.home.now()
        detail: Document = {"namespace": namespace}
        with self._scope.act("consent.set", self._scope.name, detail=detail) as tx:
            codes = read_codes([value])
            if codes[0] in (0, UNKNOWN):
                raise InvalidInput("that is not a consent value", hint=f"use one of {LISTED}")
            detail["share"] = value  # before that it may be anything, such as somebody's id
            if at is not None and not 0 <= at <= now:
                raise InvalidInput("that is no time, or one to come", hint="give the time at which the person said it")
            draft = Draft(self._scope, tx)
            number = detail["profile"] = Visibility(self._scope, tx).number(draft.base, profile)
            bases = draft.bases([check_basis(basis)])
            words = Words(codes=codes, at=np.array([now if at is None else at], np.int64), bases=bases)
            noted = draft.note_consent(
                np.array([number], np.int64), words, None if namespace is None else rule(namespace).namespace
            )
            detail["changed"] = bool(noted.changed)
            draft.publish()
        announce(self._scope)
        return bool(noted.changed)

    def import_(
        self,
        path: "Path | str | Query",
        *,
        id_column: str,
        consent_column: str | None = None,
        tcf_column: str | None = None,
        needed: Needed = NEEDED,
        namespace: str | None = None,
        time_column: str | None = None,
        basis_column: str | None = None,
        progress: "ReadProgress | None" = None,
    ) -> "ConsentReport":
        """Note what a file's profiles said, as imports/consent_files.py does."""
        from ..imports.consent_files import ConsentColumns, ConsentFile, import_file

        columns = ConsentColumns(
            consent=consent_column, tcf=tcf_column, needed=needed, time=time_column, basis=basis_column
        )
        file = ConsentFile(path=path, id_column=id_column, columns=columns, namespace=namespace)
        report = import_file(self._scope, file, progress)
        announce(self._scope)
        return report

    def show(self, profile: str | None = None) -> Document:
        """Return the model and how many profiles said what; with an id, what that one said, and what may be shared of it.

        `may_be_shared` is what the model and the consent policies on all segments say; None where there is no model, or a
        policy reads what is hidden from the caller. Policies on a label stand beside it.
        """
        with self._scope.read() as tx:
            visibility, snapshot, model = (
                Visibility(self._scope, tx),
                Snapshot.open(self._scope, tx),
                self._scope.consent_model,
            )
            if profile is not None:
                number = visibility.number(snapshot, profile)
            people = visibility.people(snapshot)
        if profile is not None:
            return {"model": model, "profile": profile, **self._said(snapshot, model, number)}
        seen = audiences.numbers(people)
        bases = np.bincount(snapshot.profile_consent_basis[seen], minlength=1)
        noted = {name: snapshot.noted(name) for name in sorted(snapshot.content.noted)}
        noted = {name: rows[np.isin(rows["profile"], seen)] for name, rows in noted.items()}
        return {
            "model": model,
            "profiles": _counts(snapshot.profile_consent[seen]),
            "bases": {snapshot.basis(n): int(bases[n]) for n in np.flatnonzero(bases).tolist() if n},
            "namespaces": {name: _counts(rows["code"]) for name, rows in noted.items() if len(rows)},
        }

    def _said(self, snapshot: Snapshot, model: str | None, number: int) -> Document:
        """Return what one profile said, for all of it and by namespace, and what may be shared."""
        from .consent_policies import ConsentPolicies

        of_all = snapshot.word(number)
        policies = ConsentPolicies(self._scope).judge(number, snapshot)
        met = [each.met for each in policies if each.label is None]
        namespaces = {}
        for name in sorted({each.partition("/")[0] for each in snapshot.namespaces} | set(snapshot.content.noted)):
            word = snapshot.word(number, name)
            shared = None if model is None else _may_share(model, of_all, word) and False not in met
            if shared and None in met:
                shared = None
            namespaces[name] = {**_document(snapshot, word), "may_be_shared": shared}
        return {**_document(snapshot, of_all), "namespaces": namespaces, "policies": list(map(asdict, policies))}


def _may_share(model: str, of_all: Word, of_namespace: Word) -> bool:
    codes = (np.array([each.code], np.uint8) for each in (of_all, of_namespace))
    return bool(may_share(model, *codes)[0])


def _document(snapshot: Snapshot, word: Word) -> Document:
    at = date(word.at) if word.code else None
    return {"share": CODES[word.code] or None, "at": at, "basis": snapshot.basis(word.basis)}


def _counts(codes: npt.NDArray[Any]) -> dict[str, int]:
    counts = np.bincount(np.asarray(codes, np.uint8), minlength=len(CODES))
    return {CODES[number] or "none": int(count) for number, count in enumerate(counts) if count}
