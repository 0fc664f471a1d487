"""Events as Audience Manager's data collection servers take them: a form in a query or a body, with ids and signals.

Sources (Experience League): "Supported Attributes for DCS API Calls", "DCS API Methods", "DCS Error Codes, Messages, and
Examples", "CID Replaces DPID and DPUUID"; d_ws and d_location_id are of the Customer Data API.
"""

import asyncio
import base64
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from psi.errors import VesicaError

from ..errors import Failure, NotAllowed, NotFound, TokenNeeded
from ..transport.operator_endpoint import Answer, Unacceptable, json_answer
from .declared_ids import Code, DeclaredIds, Known, Problem, limited
from .listener import refused
from .receiving import Call
from .routes import Call as Request
from .visitor_segments import Shown, shown
from .visitors import NOBODY
from .write_queue import Prepared, WriteQueue

MAX_PAIRS = 2_000
REGION = 7  # of the servers, as clients expect one in an answer
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ORGANISATION = re.compile(r"[A-Za-z0-9]*@AdobeOrg")
_NUMBER = re.compile(r"[0-9]{1,10}")
_CONTROLS = frozenset(  # what steers a call, and is no signal
    {
        *("d_caller", "d_cb", "d_coppa", "d_cts", "d_dst", "d_dst_filter", "d_jsonv", "d_location_id", "d_nsid"),
        *("d_cid", "d_cid_ic", "d_dpid", "d_dpuuid", "d_mid", "d_uuid", "d_orgid", "d_orgId"),
        *("d_ptfm", "d_rs", "d_rtbd", "d_sid", "d_unsid", "d_tdpid", "d_tdpid_ic", "d_ws"),
    }
)


@dataclass(slots=True)
class Event:
    """A form as it was read, and what came of it. `json`: an answer with words was asked for; else a pixel is."""

    json: bool
    detailed: bool = False  # traits and segments are asked for
    device: str = ""
    named: bool = False  # somebody is, by an id that is one
    problems: list[Problem] = field(default_factory=list)
    visitor: int = NOBODY
    traits: Sequence[int] = ()
    shown: Shown | None = None

    @property
    def void(self) -> bool:
        """Whether nothing of it was done."""
        return not self.named or any(each.code.voids for each in self.problems)


async def answer(request: Request, queue: WriteQueue) -> Answer:
    """Answer an event."""
    form = request.query if request.method == "GET" else request.body + (b"&" + request.query if request.query else b"")
    prepared = partial(prepare, form, request.sources)
    event: Event = await queue.submit(request.scope, request.caller, prepared)
    event.json |= "stream" in request.parameters  # of the Customer Data API, which knows no pixel
    if event.detailed and event.visitor != NOBODY:
        await asyncio.get_running_loop().run_in_executor(None, _look, request, event)
    return rendered(event, request.scope.home.random(8))


def _look(request: Request, event: Event) -> None:
    """Note what the caller may see: a program that may only send gets no list."""
    event.shown = None
    with suppress(NotAllowed, NotFound), request.scope.home.guard.acting_as(request.caller):
        event.shown = shown(request.scope, event.visitor, event.traits)


def rendered(event: Event, transaction: bytes) -> Answer:
    """Return the answer to an event: JSON or a pixel, with the codes in a header too."""
    codes = list(dict.fromkeys(int(each.code) for each in event.problems))
    headers = {"x-error": ",".join(map(str, codes))} if codes else {}
    status = 400 if event.void else 200
    if not event.json:
        return Answer(status=status, body=PIXEL, kind="image/gif", headers=headers)
    document: dict[str, Any] = {}
    if not event.void:
        document = {"stuff": [], "uuid": event.device, "dcs_region": REGION}
        document["tid"] = base64.b64encode(transaction).decode()
        if event.shown is not None:
            document["traits"] = [each.number for each in event.shown.traits]
            document["segments"] = [each.number for each in event.shown.segments]
    if event.problems:
        document["errors"] = [{"code": int(each.code), "msg": each.text} for each in event.problems]
    return json_answer(document, status=status, headers=headers)


def refusal(error: VesicaError) -> Answer:
    """Return a refusal in the form that clients know: a token that is none has a code of theirs."""
    answered = refused(error)
    if not isinstance(error, NotAllowed | TokenNeeded) or isinstance(error, Failure | Unacceptable):
        return answered
    document = {"errors": [{"code": int(Code.TOKEN), "msg": Code.TOKEN.text}]}
    return json_answer(document, status=answered.status, headers={"x-error": str(int(Code.TOKEN))})


def pairs(form: bytes) -> list[tuple[str, str]] | None:
    """Return the keys and values of a form in order, None if one is not encoded rightly."""
    if _BAD_ESCAPE.search(form) or form.count(b"&") >= MAX_PAIRS:
        return None
    found = []
    for each in form.replace(b"+", b" ").split(b"&"):
        key, _, value = each.partition(b"=")
        try:
            if key or value:
                found.append((unquote_to_bytes(key).decode(), unquote_to_bytes(value).decode()))
        except UnicodeDecodeError:
            return None
    return found


def prepare(form: bytes, allowed: frozenset[int] | None, known: Known, now: int) -> Prepared:
    """Return what a form asks for; what is wrong with it is in the event that it finishes with.

    `allowed` are the data sources of which traits may be realised, None for all.
    """
    found = pairs(form)
    if found is None:
        event = Event(json=b"d_rtbd=json" in form, problems=[Problem(Code.ENCODING)])
        return Prepared((), 0, lambda visitors, traits: event)
    given: dict[str, list[str]] = {}
    signals: list[tuple[str, str]] = []
    for key, value in found:
        if key in _CONTROLS:
            given.setdefault(key, []).append(value.strip())
        elif key:
            signals.append((key, value))
    event = Event(json="json" in given.get("d_rtbd", ()), detailed=any(each in "12" for each in given.get("d_cts", ())))
    ids = _ids(given, known, event)
    realise, remove, only = _traits(given, known, event)
    style = (given.get("d_ws") or ["append"])[-1]
    if style not in ("append", "overwrite", "delete"):
        event.problems.append(Problem(Code.MALFORMED, ": d_ws is overwrite or delete"))
    if style == "overwrite" and (only is None or len(only) != 1):
        event.problems.append(Problem(Code.MALFORMED, ": d_ws=overwrite needs one d_tdpid"))
    if event.void:
        return Prepared((), 0, lambda visitors, traits: event)
    if style == "delete":
        realise, remove = (), (*realise, *remove)
    call = Call(
        ids=tuple(ids.ids),
        signals=tuple(signals),
        realise=realise,
        remove=remove,
        at=now,
        overwrite=only[0] if style == "overwrite" and only else None,
        only=limited(only, allowed),
        withdraw=style == "delete",
    )

    def finish(visitors: Sequence[int], traits: Sequence[Sequence[int]]) -> Event:
        event.visitor, event.traits = visitors[0], traits[0]
        if event.visitor == NOBODY:
            event.problems.append(Problem(Code.OPTED_OUT))
        return event

    return Prepared((call,), call.ids[0][0], finish)


def _ids(given: dict[str, list[str]], known: Known, event: Event) -> DeclaredIds:
    ids = DeclaredIds(known, problems=event.problems)
    for organisation in (*given.get("d_orgid", ()), *given.get("d_orgId", ())):
        if not _ORGANISATION.fullmatch(organisation):
            event.problems.append(Problem(Code.ORGANISATION))
    for key, code in (("d_uuid", Code.DEVICE_ID), ("d_mid", Code.EXPERIENCE_CLOUD_ID)):
        for value in given.get(key, ())[-1:]:
            before = len(ids.ids)
            ids.device(value, code)
            if len(ids.ids) > before:
                event.device = event.device or value
    for declared in given.get("d_cid", ()):
        for source, value in _declared(declared):
            ids.declare(int(source) if _NUMBER.fullmatch(source) else None, value)
    for declared in given.get("d_cid_ic", ()):
        for source, value in _declared(declared):
            ids.declare(known.codes.get(source) if source else None, value)
    for source, value in zip(given.get("d_dpid", ()), given.get("d_dpuuid", ()), strict=False):
        ids.declare(int(source) if _NUMBER.fullmatch(source) else None, value)
    ids.end()
    event.named = bool(ids.ids)
    return ids


def _declared(text: str) -> list[tuple[str, str]]:
    """Return the data sources and ids of a list with \\x01 between; the state of authentication behind an id is left.

    Adobe's own client encodes the "%01" of its caller once more in a form.
    """
    parts = text.replace("%01", "\x01").split("\x01")
    if len(parts) == 3 and parts[2] in ("0", "1", "2"):
        parts = parts[:2]
    if len(parts) % 2:
        parts.append("")
    return list(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def _traits(
    given: dict[str, list[str]], known: Known, event: Event
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]:
    """Return the traits to realise and to remove, and the data sources whose traits are evaluated, None for all."""

    def read(key: str) -> list[str]:  # a list is joined by commas as well as repeated
        return [each.strip() for text in given.get(key, ()) for each in text.split(",") if each.strip()]

    numbers = {key: read(key) for key in ("d_sid", "d_unsid", "d_tdpid")}
    for key, values in numbers.items():
        if not all(map(_NUMBER.fullmatch, values)):
            event.problems.append(Problem(Code.MALFORMED, f": {key} is a number"))
            return (), (), None
    only = [int(each) for each in numbers["d_tdpid"]]
    only += [known.codes.get(code, -1) for code in read("d_tdpid_ic")]
    named = "d_tdpid" in given or "d_tdpid_ic" in given
    return (
        tuple(map(int, numbers["d_sid"])),
        tuple(map(int, numbers["d_unsid"])),
        tuple(dict.fromkeys(only)) if named else None,
    )
