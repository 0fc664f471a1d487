"""Outbound files of Audience Manager: an id and the segments that it is in or has left, with a control file beside each.

Sources (Experience League): "Outbound Data File Name: Syntax and Examples" (names; 13 digits of milliseconds, then the number
of the part), "Transfer-Control Files for Log File Transfers" (.info). A file has the changes of one segment, and a line one
id: "ID<tab>SEGMENT", or "ID<tab><tab>SEGMENT" for who has left.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import InvalidInput
from ..changes import Act
from ..kinds import Batch, NotEncoded, Setting, Settings
from . import identity_texts

FORMAT = "audience-manager"
SETTINGS = (
    Setting(
        name="destination_id", text=f"for format={FORMAT}: the number that its files are named by", may_change=True
    ),
    Setting(
        name="data_source",
        text=f"for format={FORMAT}: the number of the data source that the ids are of, 20914 for GAID, 20915 for IDFA",
        may_change=True,
    ),
    Setting(name="alias", text=f"for format={FORMAT}: a name in the names of its files", may_change=True),
    Setting(name="gzip", text=f"for format={FORMAT}: yes, for files that are packed", may_change=True),
)
SEGMENT_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_ALIAS = re.compile(r"[A-Za-z0-9-]{1,40}")
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_FORMS = {"destination_id": _NUMBER, "data_source": _NUMBER, "alias": _ALIAS, "gzip": re.compile("yes")}
_HINTS = {"alias": "use letters, digits and -, 40 at most", "gzip": "write gzip=yes, or leave it out"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundFiles:
    """What the names of a destination's files say, and whether they are packed."""

    destination: str
    source: str
    alias: str
    packed: bool

    @classmethod
    def of(cls, settings: Settings) -> "OutboundFiles | None":
        """Return what settings as they are kept say; None for another format."""
        if settings["format"] != FORMAT:
            return None
        return cls(
            destination=settings["destination_id"],
            source=settings["data_source"],
            alias=settings.get("alias", ""),
            packed="gzip" in settings,
        )

    def encode(self, batch: Batch) -> bytes:
        """Return the name of a batch's file, a newline, and the file; the same batch is the same bytes."""
        segment = batch.external_id or batch.segment_id
        if not SEGMENT_ID.fullmatch(segment):
            raise NotEncoded("data", "what the target calls the segment cannot stand in a line")
        ends = {Act.ADD.value: f"\t{segment}", Act.REMOVE.value: f"\t\t{segment}"}
        ids = identity_texts.texts(batch.values, batch.identity)
        if _CONTROL.search("".join(ids)) or any(each != each.strip() for each in ids):
            raise NotEncoded("data", "an id has signs that end it in a line")
        lines = "".join(f"{text}{ends[act]}\n" for text, act in zip(ids, batch.acts.tolist(), strict=True)).encode()
        content = gzip.compress(lines, mtime=0) if self.packed else lines
        return f"{self._name(batch)}\n".encode() + content

    def _name(self, batch: Batch) -> str:
        """Return a name that the files of one revision share but for the number of the part."""
        time = 1_000 * batch.at + (batch.sequence - batch.number) % 1_000
        names = ["S3", self.destination, self.source, *filter(None, [self.alias]), "full" if batch.first else "iter"]
        return f"{'_'.join(names)}_{time:013}{batch.number + 1:03}.sync{'.gz' if self.packed else ''}"


def files(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the file that an encoded batch is, by name, then its control file, which says that it is whole."""
    first, _, content = body.partition(b"\n")
    name = first.decode()
    stem, lines = name.removesuffix(".gz").removesuffix(".sync"), content
    if name.endswith(".gz"):
        lines = gzip.decompress(content)
    count = lines.count(b"\n")
    about = {
        "FileByteSize": len(content),
        "FileLineCount": count,
        "FileName": name,
        "FileSequenceNumber": int(stem.rpartition("_")[2][13:]),
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
    }
    totals = {"FileName": f"{stem}.sync", "TotalByteSize": len(content), "TotalNumberFiles": 1}
    control = {"Files": [about], "Totals": {**totals, "TotalNumberLines": count}}
    yield name, content
    yield f"{stem}.info", f"{json.dumps(control, indent=2)}\n".encode()


def checked(settings: Settings, form: str) -> dict[str, str]:
    """Return the settings of these files as they are kept; raises InvalidInput, also where another format has one."""
    kept = {name: settings[name] for name in _FORMS if settings.get(name)}
    if form != FORMAT:
        if kept:
            raise InvalidInput(f"{next(iter(kept))} is for files of format={FORMAT}", hint="leave it out")
        return {}
    for name in ("destination_id", "data_source"):
        if name not in kept:
            raise InvalidInput(f"files of format={FORMAT} need the setting {name}", hint="it is a number")
    for name, text in kept.items():
        if not _FORMS[name].fullmatch(text):
            raise InvalidInput(f"that is no {name} of outbound files", hint=_HINTS.get(name, "it is a number"))
    return kept
