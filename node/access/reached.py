"""The projects that a caller reaches, and texts without the names of others.

To a user without a role in a project it is not there. Texts that are kept (audit rows, alerts, errors of jobs) may name it
all the same: as a shared segment, "shared.PROJECT.SEGMENT", or under the keys of NAMING. What names a project that there is
not is treated alike, so that nobody learns which there are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WORD = "shared"  # what a segment of another project begins with, in rules and in texts
NAMING = frozenset({"project", "projects"})  # keys of details that stand before names of projects
UNSEEN = f"{WORD}.?"
_REFERENCE = re.compile(rf"\b{WORD}\.[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Reached:
    """`names` are those of the projects that the caller reaches; None: all."""

    names: frozenset[str] | None

    def sees(self, target: str) -> bool:
        """Return whether the caller may know of a shared segment, "PROJECT.SEGMENT": the project's name alone can have
        dots."""
        return self.names is None or target.rpartition(".")[0] in self.names

    def text(self, text: str) -> str:
        """Return a text without the shared segments of projects that the caller does not reach."""
        if self.names is None or WORD not in text:
            return text
        return _REFERENCE.sub(self._replaced, text)

    def value(self, value: Any, *, naming: bool = False) -> Any:
        """Return what JSON can hold without them, and without names of projects under the keys of NAMING."""
        match value:
            case str():
                return UNSEEN if naming and self._hides(value) else self.text(value)
            case Mapping():
                return {self.text(key): self.value(each, naming=key in NAMING) for key, each in value.items()}
            case list() | tuple():
                return [self.value(each, naming=naming) for each in value]
        return value

    def _replaced(self, found: re.Match[str]) -> str:
        target = found[0].rstrip(".").partition(".")[2]  # a dot may end a sentence
        return found[0] if self.sees(target) else UNSEEN

    def _hides(self, name: str) -> bool:
        return self.names is not None and name not in self.names
