"""People loaded into a project from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from node.imports.identity_columns import IdentityColumn
from node.node import Node
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


def four_people(node: Node, folder: Path) -> Project:
    """Return the project with people 1 to 4, each with an e-mail and an ECID, who said yes, no, nothing and yes."""
    path = folder / "people.csv"
    people = enumerate(["y", "n", "", "y"], start=1)
    path.write_text("id,email,ecid,share\n" + "".join(f"{n},u{n}@x.com,{n:038d},{said}\n" for n, said in people))
    project = node.project()
    columns = [IdentityColumn.parse("email=email_sha256"), IdentityColumn.parse("ecid=ecid")]
    project.profiles.import_(path, dataset="crm", id_column="id", identities=columns, consent_column="share")
    return project
