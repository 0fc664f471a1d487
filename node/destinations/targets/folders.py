"""A folder as a destination: each batch is a file of changes, in order of their names.

A batch that is written again has the same name and the same bytes: whoever notes the names has each change once.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import Failure, InvalidInput
from ...homes import check_outside
from ...storage.files import below, write_atomically
from ...storage.temporary import remove_leftovers_of
from ..kinds import Batch, Delivered, Later, Message, Outcome, Setting, Settings
from . import formats, outbound_files
from .outbound_files import OutboundFiles

if TYPE_CHECKING:
    from ...access.scope import Home


class _Folder:
    text = "a folder that gets a file for each batch of changes, for the node's account alone to read"
    settings = (
        Setting(name="folder", text="the folder, which has to exist, such as /srv/audiences", needed=True),
        *formats.SETTINGS,
    )
    limit = 100_000
    reserved_fields = formats.HEADER

    def required_mappings_only(self, settings: Settings) -> bool:
        return settings["format"] == outbound_files.FORMAT

    def checked(self, settings: Settings) -> dict[str, str]:
        form = formats.checked(settings)
        folder = Path(settings["folder"]).absolute()
        check_outside(folder)
        if not folder.is_dir():
            raise InvalidInput(
                f"there is no folder {folder}", hint="make it, for the account that runs the node to write"
            )
        return {"folder": str(folder), **form}

    def secret(self, given: bytes | None, random: Callable[[int], bytes]) -> bytes | None:
        if given is not None:
            raise InvalidInput("a file destination has no secret", hint="leave it out")
        return None

    def open(self, home: "Home", settings: Settings, secret: bytes | None) -> "FolderTarget":
        folder = Path(settings["folder"])
        remove_leftovers_of(folder)
        return FolderTarget(folder, settings["format"], OutboundFiles.of(settings))


FOLDER = _Folder()


class FolderTarget:
    """An open folder."""

    def __init__(self, folder: Path, form: str, outbound: OutboundFiles | None = None) -> None:
        self._folder, self._format, self._outbound = folder, form, outbound

    def check(self, now: int) -> Outcome:
        probe = self._folder / ".vesica-check"
        outcome = self._write(probe, b"")
        with suppress(OSError):
            probe.unlink()
        return outcome

    def encode(self, batch: Batch) -> bytes:
        return formats.encode(batch, self._format) if self._outbound is None else self._outbound.encode(batch)

    def send(self, message: Message) -> Outcome:
        if self._outbound is not None:
            outcome: Outcome = Delivered()
            for name, body in outbound_files.files(message.body):
                outcome = self._write(below(self._folder, name), body)
                if not isinstance(outcome, Delivered):
                    break
            return outcome
        name = f"{message.sequence:010}-{message.segment}-{message.id}.{self._format}"
        return self._write(below(self._folder, name), message.body)

    def close(self) -> None:
        """Nothing is open between two files."""

    def _write(self, path: Path, body: bytes) -> Outcome:
        if not self._folder.is_dir():  # a mount that is away is not made anew below its mount point
            return Later("folder")
        try:
            check_outside(self._folder)  # it may have become a link
            write_atomically(path, body)
        except (Failure, InvalidInput):
            return Later("folder")
        return Delivered()
