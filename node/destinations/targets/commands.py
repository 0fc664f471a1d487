"""A program as a destination: a Singer target, or an Airbyte destination. It reads lines, and a state that comes back says
that all before it is written.

Whoever names a program, and its configuration, runs code on the node's machine as the node's account: only an administrator
of the node makes such a destination (`kinds.ADMINISTERED`).
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import InvalidInput
from ...storage import temporary
from ...storage.files import make_directory
from ..changes import Act
from ..kinds import Batch, Delivered, Later, Message, Outcome, Refused, Setting, Settings
from . import formats, programs

if TYPE_CHECKING:
    from ...access.scope import Home

STREAM = "segment_members"
KEY = ["segment", "identity"]
LONGEST_CONFIGURATION = 1 << 16
_STREAM = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TEXT, _TIME = {"type": "string"}, {"type": "string", "format": "date-time"}
_MAYBE_TEXT, _MAYBE_TIME = {"type": ["null", "string"]}, {"type": ["null", "string"], "format": "date-time"}


class Dialect(Protocol):
    """What lines say, and how they come back."""

    deleted_at: str  # the field that marks a removal

    def arguments(self, folder: Path, stream: str, fields: list[str]) -> list[str]:
        """Return the arguments of the program, whose files are in a folder."""
        ...

    def lines(self, stream: str, fields: list[str], records: Iterator[Any], state: Any) -> Iterator[Any]: ...

    def state(self, answer: Any) -> Any:
        """Return the state in a line that came back, None where there is none."""
        ...


class _Singer:
    """The Singer specification; `_sdc_deleted_at` as Meltano's targets have it."""

    deleted_at = "_sdc_deleted_at"

    def arguments(self, folder: Path, stream: str, fields: list[str]) -> list[str]:
        return ["--config", str(folder / "config.json")]

    def lines(self, stream: str, fields: list[str], records: Iterator[Any], state: Any) -> Iterator[Any]:
        schema = _schema(fields, self.deleted_at)
        yield {"type": "SCHEMA", "stream": stream, "schema": schema, "key_properties": KEY}
        for each in records:
            yield {"type": "RECORD", "stream": stream, "record": each, "time_extracted": each["at"]}
        yield {"type": "STATE", "value": state}

    def state(self, answer: Any) -> Any:
        return answer


class _Airbyte:
    """The Airbyte protocol; a removal is marked as its sources mark what change data capture finds deleted."""

    deleted_at = "_ab_cdc_deleted_at"

    def arguments(self, folder: Path, stream: str, fields: list[str]) -> list[str]:
        catalog = {
            "stream": {
                "name": stream,
                "json_schema": _schema(fields, self.deleted_at),
                "supported_sync_modes": ["full_refresh", "incremental"],
                "source_defined_cursor": True,
                "default_cursor_field": ["sequence"],
                "source_defined_primary_key": [[each] for each in KEY],
            },
            "sync_mode": "incremental",
            "cursor_field": ["sequence"],
            "destination_sync_mode": "append_dedup",
            "primary_key": [[each] for each in KEY],
            "generation_id": 0,
            "minimum_generation_id": 0,
            "sync_id": 0,
        }
        _write(folder / "catalog.json", json.dumps({"streams": [catalog]}).encode())
        return ["write", "--config", str(folder / "config.json"), "--catalog", str(folder / "catalog.json")]

    def lines(self, stream: str, fields: list[str], records: Iterator[Any], state: Any) -> Iterator[Any]:
        count, descriptor = 0, {"name": stream}
        for each in records:
            count += 1
            emitted = each["sequence"] * 1_000  # in the order of messages, which is all that it is used for
            yield {"type": "RECORD", "record": {"stream": stream, "data": each, "emitted_at": emitted}}
        yield {
            "type": "STATE",
            "state": {
                "type": "STREAM",
                "stream": {"stream_descriptor": descriptor, "stream_state": state},
                "sourceStats": {"recordCount": count},
            },
        }
        status = {"stream_descriptor": descriptor, "status": "COMPLETE"}
        trace = {"type": "STREAM_STATUS", "emitted_at": 0, "stream_status": status}
        yield {"type": "TRACE", "trace": trace}

    def state(self, answer: Any) -> Any:
        try:
            return answer["state"]["stream"]["stream_state"] if answer["type"] == "STATE" else None
        except (KeyError, TypeError):
            return None


DIALECTS: dict[str, Dialect] = {"singer": _Singer(), "airbyte": _Airbyte()}


class _Command:
    text = "a program that reads lines: a Singer target or an Airbyte destination; for an administrator of the node to make"
    settings = (
        Setting(name="program", text="its whole path, such as /opt/target-snowflake/bin/target-snowflake", needed=True),
        Setting(name="protocol", text=f"{' or '.join(DIALECTS)}; its configuration is the secret, JSON", needed=True),
        Setting(name="stream", text=f"what the program calls the changes, such as a table; {STREAM} unless given"),
    )
    limit = 50_000
    reserved_fields = (*KEY, "namespace", "at", "status", "sequence", *(each.deleted_at for each in DIALECTS.values()))

    def checked(self, settings: Settings) -> dict[str, str]:
        program, protocol = Path(settings["program"]), settings["protocol"]
        stream = settings.get("stream") or STREAM
        if protocol not in DIALECTS:
            raise InvalidInput(f"there is no protocol {protocol[:20]!r}", hint=f"name one of {', '.join(DIALECTS)}")
        if not _STREAM.fullmatch(stream):
            raise InvalidInput(f"{stream[:80]!r} is no name of a stream", hint="use letters, digits and _, 63 at most")
        if not program.is_absolute() or "\0" in settings["program"]:
            raise InvalidInput("that is no whole path of a program", hint="begin it with /")
        programs.check(program)
        return {"program": str(program), "protocol": protocol, "stream": stream}

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        if given is None:
            return None
        try:
            usable = len(given) <= LONGEST_CONFIGURATION and isinstance(json.loads(given), dict)
        except (ValueError, RecursionError):
            usable = False
        if not usable:
            raise InvalidInput(
                "that is no configuration of a program",
                hint=f"give a JSON object of up to {LONGEST_CONFIGURATION:,} bytes",
            )
        return given

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "CommandTarget":
        return CommandTarget(home.path / "spool", settings, secret or b"{}")


COMMAND = _Command()


class CommandTarget:
    """A program that is run once a message. Its files are in a directory that goes with it, below `spool`."""

    def __init__(self, spool: Path, settings: Settings, configuration: bytes) -> None:
        self._spool, self._settings, self._configuration = spool, settings, configuration
        self._dialect = DIALECTS[settings["protocol"]]

    def check(self, now: int) -> Outcome:
        return self._run([], iter(()), f"check {now}")

    def encode(self, batch: Batch) -> bytes:
        lines = [json.dumps([*batch.attributes])]
        names = formats.header(batch)
        for cells, act in zip(formats.rows(batch), batch.acts.tolist(), strict=True):
            record = {name: cell for name, cell in zip(names, cells, strict=True) if name != "status"}
            record |= {self._dialect.deleted_at: record["at"] if act == Act.REMOVE else None}
            lines.append(json.dumps({**record, "sequence": batch.sequence}))
        return "\n".join(lines).encode()

    def send(self, message: Message) -> Outcome:
        fields, *records = message.body.split(b"\n")
        return self._run(json.loads(fields), map(json.loads, records), message.id)

    def close(self) -> None:
        """Nothing is open between two messages."""

    def _run(self, fields: list[str], records: Iterator[Any], name: str) -> Outcome:
        """Run the program; what it took is delivered once the state that names the message comes back, and it ends well."""
        state = {"vesica": {"message": name}}
        stream, program = self._settings["stream"], Path(self._settings["program"])
        lines = self._dialect.lines(stream, fields, records, state)
        heard = _Heard(self._dialect, state)
        make_directory(self._spool)
        with temporary.new_directory(self._spool, "command") as folder:
            try:
                found = programs.check(program)
                _write(folder / "config.json", self._configuration)
                arguments = self._dialect.arguments(folder, stream, fields)
                encoded = (f"{json.dumps(each)}\n".encode() for each in lines)
                ended = programs.run(found, [str(program), *arguments], folder, encoded, heard)
            except (InvalidInput, OSError):
                return Later("program")
        if ended.late:
            return Later("timeout")
        if ended.too_much:
            return Later("output")
        if ended.status:
            return Later("killed" if ended.status < 0 else f"exit_{ended.status}")
        if heard.rejected:
            return Refused("rejected")
        return Delivered() if heard.acknowledged else Later("acknowledgement")


class _Heard:
    """What a program said: whether our state came back, and whether it did not take a record."""

    def __init__(self, dialect: Dialect, state: Any) -> None:
        self._dialect, self._state = dialect, state
        self.acknowledged = self.rejected = False

    def __call__(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return  # others' programs print what they like
        if self._dialect.state(answer) == self._state:
            self.acknowledged = True
            self.rejected = _rejected(answer)


def _rejected(answer: Any) -> bool:
    stats = answer.get("state", {}).get("destinationStats") if isinstance(answer.get("state"), dict) else None
    return isinstance(stats, dict) and bool(stats.get("rejectedRecordCount"))


def _schema(fields: list[str], deleted_at: str) -> dict[str, Any]:
    """Return the JSON schema of a record."""
    properties: dict[str, Any] = {"segment": _TEXT, "identity": _TEXT, "namespace": _TEXT, "at": _TIME}
    properties |= {"sequence": {"type": "integer"}, deleted_at: _MAYBE_TIME}
    return {"type": "object", "properties": properties | dict.fromkeys(fields, _MAYBE_TEXT)}


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there for the node's account alone."""
    path.touch(0o600, exist_ok=False)
    path.write_bytes(content)
