"""A project of people with an ECID each."""

from pathlib import Path

from node.imports.identity_columns import IdentityColumn
from node.project import Project

COUNT = 12


def add_people(project: Project, directory: Path) -> None:
    """Add twelve people with an ECID each, of whom four are in segment a, six in b and all in c."""
    file = directory / "crm.csv"
    file.write_text("id,orders,e\n" + "".join(f"p{n},{n},{n:038d}\n" for n in range(1, COUNT + 1)))
    identities = [IdentityColumn.parse("e=ecid")]
    project.profiles.import_(file, dataset="crm", id_column="id", identities=identities, attributes=["orders"])
    project.consent.set_model("opt-out")
    for name, orders in (("a", 9), ("b", 7), ("c", 1)):
        project.segments.create(name, rule=f"orders >= {orders}")


def ecids(first: int) -> set[str]:
    """Return the ECIDs of the people with so many orders or more."""
    return {f"{n:038d}" for n in range(first, COUNT + 1)}
