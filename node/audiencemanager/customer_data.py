"""Adobe's Customer Data API: operations on profiles in a stream, and what a profile has.

Source: the definition that npm's @adobe/aio-lib-audience-manager-cd 2.1.0 has in spec/api.json.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from psi.errors import VesicaError

from ..access.scope import Scope
from ..errors import Failure, InvalidInput, NotAllowed, NotFound
from ..inputs.normalise import normalise, rule
from ..inputs.text_files import SURROGATE
from ..transport.operator_endpoint import Answer, Unacceptable, json_answer
from . import sources
from .builtin import DEVICES
from .declared_ids import Code, DeclaredIds, Known, Problem, limited
from .listener import refused
from .receiving import Call
from .records import AudienceSegment, Source, SourceKind, Trait
from .routes import Call as Request
from .sight import Sight
from .visitor_segments import shown
from .visitors import DAY, NOBODY, opened
from .write_queue import Prepared, WriteQueue

MAX_OPERATIONS = 1_000
MAX_TRACING = 255  # characters
_STREAM = re.compile(r"[a-zA-Z0-9.,+\-$_*!()]{1,255}")
_STYLES = ("APPEND", "OVERWRITE", "DELETE")


async def stream(request: Request, queue: WriteQueue) -> Answer:
    """Apply the operations of a stream; each is answered for itself, by its place from 1 on."""
    transaction = request.scope.home.random(12).hex()
    if not _STREAM.fullmatch(request.parameters["stream"]):
        return _answered(transaction, None, {0: [Problem(Code.MALFORMED, ": the stream's name")]})
    found = _parsed(request.body)
    if isinstance(found, Problem):
        return _answered(transaction, None, {0: [found]})
    tracing, operations = found
    problems: dict[int, list[Problem]] = await queue.submit(
        request.scope, request.caller, partial(_prepare, operations, request.sources)
    )
    return _answered(transaction, tracing, problems)


def refusal(error: VesicaError) -> Answer:
    """Return a refusal in the form that clients of the API know."""
    answered = refused(error)
    if isinstance(error, Unacceptable | Failure):
        status = "INTERNAL_ERROR" if answered.status >= 500 else "BAD_REQUEST"
    else:
        status = "UNAUTHORIZED" if isinstance(error, NotAllowed) else "BAD_REQUEST"
    code = int(Code.TOKEN if status == "UNAUTHORIZED" else Code.MALFORMED)
    document = {"status": status, "errors": [{"details": [{"errorCode": code, "message": str(error)}]}]}
    return json_answer(document, status=answered.status, headers=answered.headers)


def profile(request: Request) -> Answer:
    """Show what the visitor of an id has, of what the caller may see; raises NotFound for an unknown one."""
    scope, number, text = request.scope, request.parameters["source"], request.parameters["id"]
    with scope.read(act="audience.view") as tx:
        source = Sight(scope, tx).source(int(number)) if re.fullmatch("[0-9]{1,10}", number) else None
    if source is None or source.namespace is None:
        raise sources.no_source(number)
    found = normalise(rule(source.namespace), [text])
    if not found.keep[0]:
        raise InvalidInput(f"that is no id of the data source {number}", hint="look at its form")
    visitor = int(opened(scope).numbers(source.number, found.values, make=False)[0])
    if visitor == NOBODY:
        raise NotFound("there is no profile with this id", hint="send something about it first")
    return json_answer(_document(scope, source, text, visitor))


def _document(scope: Scope, source: Source, text: str, visitor: int) -> dict[str, Any]:
    found = shown(scope, visitor)
    days = dict(opened(scope).held(visitor))
    own = sum(found.sources[each.source].kind is not SourceKind.THIRD_PARTY for each in found.traits)
    counts = {"firstPartyTraitsCount": own, "thirdPartyTraitsCount": len(found.traits) - own}
    traits = [_described(each, found.sources) | _realised(days, each) for each in found.traits]
    segments = [_described(each, found.sources) | {"active": True} for each in found.segments]
    summary = {"regionId": "7", "source": "BACKEND", "profileSummary": {**counts, "segmentsCount": len(segments)}}
    profile = {
        "id": text,
        "namespace": _namespace(source),
        "data": {"traits": traits, "segments": segments},
        "links": [],
    }
    return {"summaries": [summary], "profile": profile}


def _described(found: Trait | AudienceSegment, there: dict[int, Source]) -> dict[str, Any]:
    return {
        "id": found.number,
        "name": found.name,
        "description": found.description,
        "data provider name": there[found.source].name,
    }


def _realised(days: dict[int, int], trait: Trait) -> dict[str, Any]:
    at = datetime.fromtimestamp(days.get(trait.number, 0) * DAY, UTC)
    return {"type": trait.kind, "last realization": at.strftime("%Y-%m-%d %H:%M:%S") if trait.number in days else ""}


def _namespace(source: Source) -> dict[str, Any]:
    kind = "COOKIE" if source.number == DEVICES else "MOBILE" if source.number in (20914, 20915) else "CROSS_DEVICE"
    code = source.integration_code or ""
    return {"id": source.number, "integration code": code, "data provider name": source.name, "type": kind}


def _parsed(body: bytes) -> tuple[str | None, list[Any]] | Problem:
    """Return the tracing id and the operations of a stream, or what is wrong with all of it."""
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError):
        return Problem(Code.ENCODING, ": that is not JSON")
    operations = document.get("ops") if isinstance(document, dict) else None
    if not isinstance(operations, list) or not operations:
        return Problem(Code.MALFORMED, ": ops is a list of operations")
    if len(operations) > MAX_OPERATIONS:
        return Problem(Code.MALFORMED, f": a stream has at most {MAX_OPERATIONS} operations")
    tracing = document.get("tracing_id")
    if tracing is not None and not (isinstance(tracing, str) and len(tracing) <= MAX_TRACING):
        return Problem(Code.MALFORMED, f": tracing_id has at most {MAX_TRACING} characters")
    return tracing, operations


def _prepare(operations: Sequence[Any], allowed: frozenset[int] | None, known: Known, now: int) -> Prepared:
    """Return the calls of operations; those of one that is wrong in part are made, those of a void one are not."""
    problems: dict[int, list[Problem]] = {}
    calls: list[Call] = []
    places: list[int] = []
    for place, operation in enumerate(operations, 1):
        call, found = _operation(operation, known, now)
        if found:
            problems[place] = found
        if call is not None:
            calls.append(call._replace(only=limited(call.only, allowed)))
            places.append(place)

    def finish(visitors: Sequence[int], _: Sequence[Sequence[int]]) -> dict[int, list[Problem]]:
        for place, visitor in zip(places, visitors, strict=True):
            if visitor == NOBODY:
                problems.setdefault(place, []).append(Problem(Code.OPTED_OUT))
        return problems

    return Prepared(calls, calls[0].ids[0][0] if calls else 0, finish)


def _operation(operation: Any, known: Known, now: int) -> tuple[Call | None, list[Problem]]:
    if not isinstance(operation, dict):
        return None, [Problem(Code.MALFORMED, ": an operation is an object")]
    ids = DeclaredIds(known)
    style = operation.get("operationType", "APPEND")
    signals = _signals(operation.get("traitEvaluation"))
    outright = _numbers(operation.get("traitInput", {}), "traitIds")
    targets = _numbers(operation, "targetDataSource")
    if style not in _STYLES:
        ids.problems.append(Problem(Code.MALFORMED, f": operationType is {', '.join(_STYLES[:2])} or {_STYLES[2]}"))
    if signals is None or outright is None or targets is None:
        ids.problems.append(
            Problem(
                Code.MALFORMED, ": traitEvaluation has data with key and value, traitIds and targetDataSource numbers"
            )
        )
    elif style == "OVERWRITE" and len(targets) != 1:
        ids.problems.append(Problem(Code.MALFORMED, ": OVERWRITE needs exactly one targetDataSource"))
    elif not set(targets) <= known.numbers:
        ids.problems.append(Problem(Code.NOT_OURS, ": targetDataSource"))
        ids.problems.append(Problem(Code.MALFORMED, ": there is no such targetDataSource"))
    _declare(operation.get("identities"), ids)
    if any(each.code.voids for each in ids.problems) or not ids.ids:
        return None, ids.problems
    assert signals is not None
    assert outright is not None
    assert targets is not None
    delete = style == "DELETE"
    call = Call(
        ids=tuple(ids.ids),
        signals=signals,
        realise=() if delete else outright,
        remove=outright if delete else (),
        at=now,
        overwrite=targets[0] if style == "OVERWRITE" else None,
        only=targets or None,
        withdraw=delete,
    )
    return call, ids.problems


def _declare(identities: Any, ids: DeclaredIds) -> None:
    if not isinstance(identities, list):
        ids.problems.append(Problem(Code.MALFORMED, ": identities is a list"))
        return
    for each in identities:
        value = each.get("value") if isinstance(each, dict) else None
        if not isinstance(value, str) or not _is_unicode(value):
            ids.problems.append(Problem(Code.ID))
            continue
        number, code = each.get("dataSourceId"), each.get("integrationCode", each.get("namespaceCode"))
        if isinstance(number, int) and not isinstance(number, bool):
            if number == DEVICES:
                ids.device(value, Code.DEVICE_ID)
            else:
                ids.declare(number, value)
        else:
            ids.declare(ids.known.codes.get(code) if isinstance(code, str) else None, value)
    ids.end()


def _signals(given: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the signals of an operation; None where they have another form. A number counts as its text."""
    if given is None:
        return ()
    data = given.get("data", []) if isinstance(given, dict) else None
    if not isinstance(data, list):
        return None
    found = []
    for each in data:
        if not isinstance(each, dict):
            return None
        key, value = each.get("key"), each.get("value")
        if not isinstance(key, str) or not key or isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        found.append((key, value if isinstance(value, str) else json.dumps(value)))
    return tuple(found) if all(_is_unicode(text) for pair in found for text in pair) else None


def _is_unicode(text: str) -> bool:
    return text.isascii() or SURROGATE.search(text) is None


def _numbers(given: Any, name: str) -> tuple[int, ...] | None:
    """Return a list of numbers of an object, none where it is not there; None where it has another form."""
    found = given.get(name, []) if isinstance(given, dict) else None
    if not isinstance(found, list) or not all(type(each) is int and 0 <= each < 1 << 31 for each in found):
        return None
    return tuple(dict.fromkeys(found))


def _answered(transaction: str, tracing: str | None, problems: dict[int, list[Problem]]) -> Answer:
    """Return the answer to a stream; place 0 is all of it."""
    document: dict[str, Any] = {"transactionId": transaction}
    if tracing is not None:
        document["tracingId"] = tracing
    document["status"] = "BAD_REQUEST" if 0 in problems else "PARTIAL_SUCCESS" if problems else "SUCCESS"
    if problems:
        document["errors"] = [
            {
                **({"operationIndex": place} if place else {}),
                "details": [{"errorCode": int(each.code), "message": each.text} for each in found],
            }
            for place, found in sorted(problems.items())
        ]
    return json_answer(document, status=400 if 0 in problems else 200)
