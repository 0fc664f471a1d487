"""Calls to a target's own interface that make, rename and delete what it calls a segment, by a template in the form of
Adobe's audience metadata templates.

A template's texts may have {{segment.name}}, {{segment.alias}} (what the target calls it), {{segment.id}} and
{{customerData.SETTING}}: whatever stands there stays one value of the address, of a header, or of the JSON.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ...errors import InvalidInput
from ...homes import check_file
from ...inputs.cells import too_deep
from ...transport.addresses import AllowedAddresses
from ..kinds import LONGEST_AUDIENCE_ID, Audience, Delivered, Outcome, Setting, Settings
from .https import ReadServer, checked_url, path_of

SETTINGS = (
    Setting(
        name="audiences",
        text="a JSON file with the calls that make, rename and delete an audience at the target",
        sealed=True,
    ),
    Setting(name="audience-id", text="what the target calls a segment: ours, name, typed or theirs"),
)
IDS = ("ours", "name", "typed", "theirs")
EVENTS = ("create", "update", "delete", "validate")  # the last one tries whether the target takes calls
METHODS = ("POST", "PUT", "PATCH", "GET", "DELETE")
LONGEST = 64 << 10  # bytes of a template
_MACRO = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_KNOWN = re.compile(r"segment\.(name|alias|id)|customerData\.[\w-]+")
_PLACE = re.compile(r"(?:body|response|headers)(?:\.[\w-]+|\[\d{1,4}\])*")
_STEP = re.compile(r"[\w-]+")


class AudienceCalls:
    """The calls of a target."""

    def __init__(self, template: str, allowed: AllowedAddresses, authorities: str | None) -> None:
        self._calls: Mapping[str, Any] = json.loads(template)
        self._allowed, self._authorities = allowed, authorities

    def validate(self, settings: Settings, now: int) -> Outcome:
        """Return how the call went that changes nothing, where there is one."""
        if "validate" not in self._calls:
            return Delivered()
        return self.call("validate", Audience(id="", name="", alias="", settings=settings), f"validate-{now}", now)[0]

    def call(self, event: str, audience: Audience, key: str, now: int) -> tuple[Outcome, str | None]:
        """Call for an event, and return how that went and the id that the target gives; `key` is the same on each try."""
        given = self._calls[event]
        url = urlsplit(_filled(given["url"], audience, quote_url=True))
        headers = {each["header"]: _filled(each["value"], audience) for each in given.get("headers", ())}
        headers = {name: quote(value, safe=" !#$&'()*+,/:;=?@[]{}\"|<>^`~%") for name, value in headers.items()}
        body = b""
        if "requestBody" in given:
            body = json.dumps(_filled_json(given["requestBody"]["json"], audience)).encode()
            headers = {"content-type": "application/json", **headers}
        server = ReadServer(url.geturl(), self._allowed, self._authorities)
        try:
            outcome = server.send(given["httpMethod"], path_of(url), {**headers, "idempotency-key": key}, body, now)
        finally:
            server.close()
        return outcome, _id(given, server) if isinstance(outcome, Delivered) else None


def checked(settings: Settings) -> dict[str, str]:
    """Return the settings of audience calls as they are kept; raises InvalidInput."""
    kept = {}
    if settings.get("audiences"):
        kept["audiences"] = json.dumps(_checked(_read(settings["audiences"]), settings))
    chosen = settings.get("audience-id") or ("theirs" if kept else "")
    if chosen and chosen not in IDS:
        raise InvalidInput(f"{chosen[:20]!r} is none of {', '.join(IDS)}", hint="say what the target calls a segment")
    if chosen == "theirs" and not _gives_id(json.loads(kept.get("audiences", "{}"))):
        raise InvalidInput(
            "no call gives the id of an audience",
            hint="the call 'create' needs a responseFields entry that is named externalAudienceId",
        )
    return {**kept, "audience-id": chosen} if chosen else kept


def shown(settings: Settings) -> dict[str, str]:
    """Return settings as people see them: what stands in a header, in the body or in the address of a call may be a token."""
    calls = json.loads(settings.get("audiences", "{}"))
    for call in calls.values():
        url = urlsplit(call["url"])
        call["url"] = f"{url.scheme}://{url.netloc}/…"
        for each in call.get("headers", ()):
            each["value"] = "…"
        if "requestBody" in call:
            call["requestBody"]["json"] = "…"
    return {**settings, "audiences": json.dumps(calls, ensure_ascii=False)} if calls else dict(settings)


def _read(path: str) -> Any:
    if path.lstrip().startswith("{"):
        text = path.encode()
    else:
        check_file(path)
        try:
            with Path(path).open("rb") as file:
                text = file.read(LONGEST + 1)
        except OSError as error:
            raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="name a JSON file") from error
    try:
        found = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or too_deep(found):
        raise InvalidInput("the calls for audiences are no JSON object", hint=f"of at most {LONGEST:,} bytes")
    return found.get("metadataTemplate", found)


def _checked(given: Any, settings: Settings) -> dict[str, Any]:
    calls = {name: given[name] for name in EVENTS if isinstance(given, dict) and name in given}
    if not calls:
        raise InvalidInput("no call for audiences is there", hint=f"the calls are {', '.join(EVENTS)}")
    for event, call in calls.items():
        headers = call.get("headers", []) if isinstance(call, dict) else None
        body = call.get("requestBody", {"json": None}) if isinstance(call, dict) else None
        if (
            not isinstance(headers, list)
            or not all(isinstance(each, dict) and _texts(each, "header", "value") for each in headers)
            or not isinstance(body, dict)
            or "json" not in body
            or not _texts(call, "url", "httpMethod")
            or call["httpMethod"] not in METHODS
            or not isinstance(call.get("responseFields", []), list)
        ):
            raise InvalidInput(
                f"the call {event!r} of audiences is incomplete",
                hint=f"it has a url, a httpMethod ({', '.join(METHODS)}), headers, a requestBody of json, responseFields",
            )
        for macro in _MACRO.findall(json.dumps([call["url"], headers, body])):
            if not _KNOWN.fullmatch(macro):
                raise InvalidInput(
                    f"the call {event!r} of audiences has an unknown {{{{{macro[:40]}}}}}",
                    hint="there are segment.name, segment.alias, segment.id and customerData.SETTING",
                )
        sample = Audience(id="0", name="n", alias="a", settings=settings)
        if "{{" in call["url"].partition("://")[2].partition("/")[0]:
            raise InvalidInput(f"the host of the call {event!r} is not fixed", hint="write it out")
        checked_url(_filled(call["url"], sample, quote_url=True), f"the call {event!r}")
    return calls


def _texts(given: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(given.get(name), str) and given[name].isascii() for name in names)


def _gives_id(calls: Mapping[str, Any]) -> bool:
    return _place(calls.get("create", {})) is not None


def _place(call: Mapping[str, Any]) -> str | None:
    """Return where in an answer the id of an audience stands."""
    for each in call.get("responseFields", ()):
        if isinstance(each, dict) and each.get("name") == "externalAudienceId":
            found = _MACRO.fullmatch(str(each.get("value", "")))
            if found and _PLACE.fullmatch(found[1]):
                return found[1]
    return None


def _id(call: Mapping[str, Any], answer: ReadServer) -> str | None:
    """Return the id that an answer has; None where it has none that can be one."""
    place = _place(call)
    if place is None:
        return None
    root, *steps = _STEP.findall(place)
    if root == "headers":
        found: Any = answer.headers.get(steps[0]) if len(steps) == 1 else None
    else:
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError):
            return None
        for step in steps:
            if isinstance(found, list) and step.isdigit():
                found = found[int(step)] if int(step) < len(found) else None
            else:
                found = found.get(step) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    text = str(found)
    return text if 0 < len(text) <= LONGEST_AUDIENCE_ID and text.isprintable() else None


def _filled(text: str, audience: Audience, *, quote_url: bool = False) -> str:
    def value(macro: re.Match[str]) -> str:
        found = audience.value(macro[1])
        return quote(found, safe="") if quote_url else found

    return _MACRO.sub(value, text)


def _filled_json(value: Any, audience: Audience) -> Any:
    if isinstance(value, str):
        return _filled(value, audience)
    if isinstance(value, list):
        return [_filled_json(each, audience) for each in value]
    if isinstance(value, dict):
        return {name: _filled_json(each, audience) for name, each in value.items()}
    return value
