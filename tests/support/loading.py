"""People loaded into a project from a file."""

from collections.abc import Sequence
from typing import Protocol

from node.project import Project


class Load(Protocol):
    """Imports a file's content, whose ids are in the column "id"; identities as the command line has them."""

    def __call__(
        self,
        project: Project,
        content: str,
        *identity: str,
        dataset: str = "crm",
        consent_column: str | None = None,
        attributes: Sequence[str] = (),
    ) -> None: ...
