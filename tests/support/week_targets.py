"""What stands at the other end in a week: receivers that keep plain sets, and can be told to fail. No line is the product's."""

import base64
import csv
import hashlib
import hmac
import json
import random
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from targets import Certificate

STATUSES = (301, 400, 403, 404, 408, 409, 422, 429, 500, 501, 502, 503, 504)
GONE = 410
SOLUTION = "audience-manager"
HOST = "127.0.0.2"  # at that of a partner nothing arrives that is made of received segments
SLOW_SECONDS = 0.6  # longer than a week lets a request take
Members = dict[str, set[str]]  # who is there, by segment


class Broken(AssertionError):
    """A receiver got what it must not get."""


class Target:
    """One destination's other end."""

    kind = ""
    faults: tuple[str, ...] = ()  # what it can be told to do

    def settings(self) -> dict[str, str]:
        raise NotImplementedError

    def secret(self) -> bytes | None:
        """Return the secret that the destination is made with, None where it makes one."""
        return None

    def learn(self, secret: str | None) -> None:
        """Take the secret that the destination made."""

    def members(self) -> Members:
        """Return who is there now."""
        raise NotImplementedError

    def fail(self, fault: str) -> None:
        """Begin to fail; `heal` ends it."""
        raise NotImplementedError

    def heal(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


class Folder(Target):
    """Reads the files of a folder in order of their names, each name once."""

    kind, faults = "file", ("missing", "full")

    def __init__(self, path: Path, form: str) -> None:
        path.mkdir()
        self._path, self._form, self._there = path, form, Members()
        self._read: dict[str, bytes] = {}
        self.full = False  # whoever writes here has no space left

    def settings(self) -> dict[str, str]:
        return {"folder": str(self._path), "format": self._form}

    def holds(self, path: Path) -> bool:
        return self._path in path.parents

    def members(self) -> Members:
        folder = self._path if self._path.is_dir() else self._away
        for file in sorted(each for each in folder.iterdir() if not each.name.startswith(".")):
            content = file.read_bytes()
            if file.name not in self._read:
                self._read[file.name] = content
                self._take(content.decode())
            elif self._read[file.name] != content:
                raise Broken(f"{file.name} was written again, and says something else")
        return self._there

    def _take(self, text: str) -> None:
        lines = text.splitlines()
        rows = map(json.loads, lines) if self._form == "jsonl" else csv.DictReader(lines)
        for row in rows:
            segment = self._there.setdefault(row["segment"], set())
            segment.add(row["identity"]) if row["status"] == "realized" else segment.discard(row["identity"])

    @property
    def _away(self) -> Path:
        return self._path.with_name(f"{self._path.name}-away")

    def fail(self, fault: str) -> None:
        if fault == "full":
            self.full = True
        else:
            self._path.rename(self._away)

    def heal(self) -> None:
        self.full = False
        if self._away.is_dir():
            self._away.rename(self._path)


class Table(Target):
    """Reads a table of an SQLite file."""

    kind, faults = "table", ("other table", "read only")

    def __init__(self, path: Path) -> None:
        self._path = path

    def settings(self) -> dict[str, str]:
        return {"url": f"sqlite:///{self._path}", "table": "members"}

    def members(self) -> Members:
        there = Members()
        if self._path.exists():
            with closing(sqlite3.connect(self._path)) as database:
                name = next((each for each in ("kept", "members") if self._has(database, each)), None)
                for segment, identity in database.execute(f"SELECT segment, identity FROM {name}") if name else ():
                    there.setdefault(segment, set()).add(identity)
        return there

    def fail(self, fault: str) -> None:
        with closing(sqlite3.connect(self._path)) as database:
            if fault == "read only":
                for act in ("INSERT", "DELETE", "UPDATE") if self._has(database, "members") else ():
                    database.execute(
                        f"CREATE TRIGGER no_{act} BEFORE {act} ON members BEGIN SELECT RAISE(ABORT, 'read only'); END"
                    )
            else:
                if self._has(database, "members"):
                    database.execute("ALTER TABLE members RENAME TO kept")
                database.execute("CREATE TABLE members (other TEXT)")
            database.commit()

    def heal(self) -> None:
        with closing(sqlite3.connect(self._path)) as database:
            for act in ("INSERT", "DELETE", "UPDATE"):
                database.execute(f"DROP TRIGGER IF EXISTS no_{act}")
            columns = [each[1] for each in database.execute("PRAGMA table_info(members)")]
            if columns == ["other"]:
                database.execute("DROP TABLE members")
            if self._has(database, "kept"):
                database.execute("ALTER TABLE kept RENAME TO members")
            database.commit()

    @staticmethod
    def _has(database: sqlite3.Connection, name: str) -> bool:
        return bool(database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchall())


class Web(Target):
    """Serves HTTPS on loopback; takes the messages of Standard Webhooks, each id once."""

    kind, faults = "webhook", ("statuses", "gone", "slow", "half answer", "no answer", "dead")

    def __init__(self, certificate: Certificate, chance: random.Random) -> None:
        self._certificate, self._chance, self._key = certificate, chance, b""
        self._there: dict[str, set[str]] = {}  # by id of the segment
        self._names: dict[str, str] = {}
        self._seen: dict[str, bytes] = {}
        self._fault: str | None = None
        self._lock = threading.Lock()
        self.broken: list[str] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._start()

    def settings(self) -> dict[str, str]:
        return {"url": f"https://{HOST}:{self._port}/hook", "authorities": str(self._certificate.chain)}

    def learn(self, secret: str | None) -> None:
        assert secret is not None
        self._key = base64.b64decode(secret.removeprefix("whsec_"))

    def members(self) -> Members:
        if self.broken:
            raise Broken(self.broken[0])
        with self._lock:
            found = Members()
            for key, members in self._there.items():
                found.setdefault(self._names[key], set()).update(members)
            return found

    def fail(self, fault: str) -> None:
        self._fault = fault
        if fault == "dead":
            self.close()

    def heal(self) -> None:
        self._fault = None
        if self._server is None:
            self._start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def took(self, headers: dict[str, str], body: bytes) -> int | None:
        """Return the status of the answer; None for no answer, with which the connection breaks."""
        with self._lock:
            fault = self._fault
            if fault == "statuses" and self._chance.random() < 0.8:
                return self._chance.choice(STATUSES)
            if fault == "gone":
                return GONE
            if fault == "no answer":
                return None
            status = self._take(headers, body)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        return None if fault == "half answer" else status

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        if not self._is_ours(headers, body):
            self.broken.append("a message does not prove whose it is")
            return 401
        before = self._seen.setdefault(headers["webhook-id"], body)
        if before != body:
            self.broken.append("a message came again under the same id, and says something else")
        elif before is body:
            self._apply(json.loads(body))
        return 204

    def _is_ours(self, headers: dict[str, str], body: bytes) -> bool:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest()).decode()
        return signature in headers["webhook-signature"].split()

    def _apply(self, message: dict[str, Any]) -> None:
        data = message["data"]
        self._names |= {key: about["name"] for key, about in data["segments"].items()}
        for profile in data["profiles"]:
            ids = {each["id"] for listed in profile["identityMap"].values() for each in listed}
            for key in profile["segments"]["add"]:
                self._there.setdefault(key, set()).update(ids)
            for key in profile["segments"]["remove"]:
                self._there.setdefault(key, set()).difference_update(ids)

    def _start(self) -> None:
        server = ThreadingHTTPServer((HOST, self._port), _handler(self.took))
        server.daemon_threads = True
        server.socket = self._certificate.context().wrap_socket(server.socket, server_side=True)
        self._server, self._port = server, server.server_port
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Cloud(Web):
    """A solution of the Experience Cloud, which knows who calls by a token."""

    kind, token = "experience-cloud", "a-token"

    def settings(self) -> dict[str, str]:
        found = super().settings()
        return {SOLUTION: found.pop("url"), **found}

    def secret(self) -> bytes:
        return self.token.encode()

    def learn(self, secret: str | None) -> None:
        assert secret is None

    def _is_ours(self, headers: dict[str, str], body: bytes) -> bool:
        return headers["authorization"] == f"Bearer {self.token}"


def _handler(took: Callable[[dict[str, str], bytes], int | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = took({name.lower(): value for name, value in self.headers.items()}, body)
            with suppress(OSError):
                if status is None:
                    self.wfile.write(b"HTTP/1.1 200 O")
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                if status == 429:
                    self.send_header("retry-after", "40")
                self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    return Handler
