"""Bodies of messages by a template: one process for as long as a destination is open, killed where it takes too long."""

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np

from psi.values import Values

from ...errors import InvalidInput
from ...homes import check_file
from ...storage.records import Document
from ..changes import Act
from ..kinds import Batch, NotEncoded, Setting, Unusable
from ..mapping import nested
from . import payload
from .formats import STATUS

SETTING = Setting(
    name="template", text="a file with a template of the body, in the forms of Jinja2 and Pebble", may_change=True
)
CODE = "template"
LONGEST = 64 << 10  # bytes of a template
SECONDS = 30.0  # of waiting for one message: the process's own limit of CPU time ends it before, unless it is held up
LARGEST = 64 << 20  # bytes of an answer
HEAD = 4  # bytes of a frame's length
_CHILD = (
    "import sys; sys.path.append(sys.argv[1]); from node.destinations.targets.template_language import main; main()"
)
_ROOT = str(Path(__file__).parents[3])


def checked(given: str, *, group: bool, one: bool) -> str:
    """Return a template as it is kept, read from a file unless it is one already; raises InvalidInput with what is wrong.

    `group` is whether each message has additions or removals alone, `one` whether it has one person.
    """
    if find_spec("jinja2") is None:
        raise InvalidInput("templates need the package jinja2", hint="install it beside Vesica: pip install jinja2")
    text = given if "{" in given else _read(given)
    if len(text.encode()) > LONGEST:
        raise InvalidInput(f"a template has at most {LONGEST:,} bytes", hint="leave out what the target does not need")
    renderer = Renderer(text)
    try:
        reads = renderer.start()
        if "segmentStatus" in reads and not group:
            raise InvalidInput(
                "the template reads segmentStatus, and a message may have additions and removals",
                hint="add the setting group=status",
            )
        if "profile" in reads and "profiles" not in reads and not one:
            raise InvalidInput(
                "the template reads input.profile alone, and a message may have several",
                hint="go through input.profiles, or add the setting max_users_per_request=1",
            )
        for batch in _samples(together=not group and not one):
            renderer.render(batch)
    except NotEncoded as error:
        raise InvalidInput(
            f"the template cannot be used: {error}", hint=error.hint or "mend it, then try again"
        ) from None
    finally:
        renderer.close()
    return text


class Renderer:
    """A template, and the process that renders it, which begins with the first message."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> frozenset[str]:
        """Begin the process and return what the template reads by name; raises NotEncoded for a template that is wrong."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-I", "-c", _CHILD, _ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        except OSError as error:
            raise Unusable(CODE, "the process that renders templates does not start") from error
        return frozenset(map(str, self._asked(self._text)["reads"]))

    def render(self, batch: Batch) -> bytes:
        """Return the body of a batch; raises NotEncoded where the template makes none of it."""
        if self._process is None:
            self.start()
        body = self._asked(context_of(batch)).get("body")
        if not isinstance(body, str):
            raise NotEncoded(CODE, "it makes no message")
        return body.encode()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue
            process.wait()

    def _asked(self, question: object) -> Document:
        """Return the answer to a question; one that brings none ends the process, and the next one has another."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        frame, until = json.dumps(question).encode(), time.monotonic() + SECONDS
        try:
            self._process.stdin.write(len(frame).to_bytes(HEAD, "big") + frame)
            self._process.stdin.flush()
            size = int.from_bytes(_read_exactly(self._process.stdout, HEAD, until), "big")
            if size > LARGEST:
                raise ValueError
            answer = json.loads(_read_exactly(self._process.stdout, size, until))
        except (OSError, ValueError, EOFError):
            self.close()
            raise NotEncoded(
                CODE, "it takes too long, or too much memory", hint="let it do less for each person"
            ) from None
        if not isinstance(answer, dict):
            raise NotEncoded(CODE, "it makes no message")
        if "wrong" in answer:
            raise NotEncoded(CODE, str(answer["wrong"])[:300], hint=str(answer["hint"])[:300])
        return answer


def _read_exactly(file: IO[bytes], size: int, until: float) -> bytes:
    """Return so many bytes of a pipe; raises EOFError where they do not come in time."""
    read = bytearray()
    while len(read) < size:
        ready, _, _ = select.select([file], [], [], max(0.0, until - time.monotonic()))
        piece = os.read(file.fileno(), min(size - len(read), 1 << 20)) if ready else b""
        if not piece:
            raise EOFError
        read += piece
    return bytes(read)


def context_of(batch: Batch) -> Document:
    """Return what a template sees of a batch."""
    source, name = payload.source(batch), batch.segment
    alias = batch.external_id or name
    acts = {Act(each) for each in np.unique(batch.acts)}
    status = STATUS[acts.pop()] if len(acts) == 1 else None
    profiles = [
        {**each, "attributes": nested({field: _valued(text) for field, text in attributes.items()})}
        for each, attributes in payload.profiles(batch)
    ]
    key: Document = {
        "segmentId": batch.segment_id,
        "segmentNamespace": source,
        "segmentAlias": alias,
        "segmentStatus": status,
    }
    key["identityNamespaces"] = sorted({each for profile in profiles for each in profile["identityMap"]})
    aliases, names = {batch.segment_id: alias}, {name: name}
    return {
        "input": {"profiles": profiles, "profile": profiles[0], "aggregationKey": key},
        "destination": {
            "name": batch.destination,
            "segmentAliases": aliases,
            "segmentNames": names,
            "namespaceSegmentAliases": {source: aliases},
            "namespaceSegmentNames": {source: names},
        },
    }


def _valued(text: str | None) -> dict[str, str]:
    return {} if text is None else {"value": text}


def _samples(*, together: bool = True) -> list[Batch]:
    """Return batches as they may come: somebody new, and somebody who leaves, together where that can be."""
    acts = np.array([Act.ADD, Act.REMOVE], np.uint8)
    both = Batch(
        id="sample",
        at=1_800_000_000,
        destination="sample",
        segment="sample",
        segment_id="0" * 32,
        labels=(),
        identity="id",
        revision=1,
        number=0,
        sequence=1,
        values=Values.of([b"p1", b"p2"]),
        acts=acts,
    )
    single = [replace(both, values=both.values.part(slice(n, n + 1)), acts=acts[n : n + 1]) for n in range(2)]
    return [*single, both] if together else single


def _read(path: str) -> str:
    check_file(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(LONGEST + 1)
        return content.decode()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"there is no template in {path[:200]}", hint="name a text file, in UTF-8") from error
