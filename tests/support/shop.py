"""A project with two datasets about four people, for rules and lists."""

from pathlib import Path

from node.imports.identity_columns import IdentityColumn
from node.project import Project

ROWS = [  # id, orders, country, note, vip
    ("1", "2", "GB", "100% wool", "true"),
    ("2", "10", "IE", "it's", "false"),
    ("3", "", "US", "", "yes"),
    ("4", "-1.5", "", "wool", ""),
]


def load(project: Project, folder: Path, dataset: str, content: str, *identity: str) -> None:
    path = folder / "people.csv"
    path.write_text(content)
    attributes = content.partition("\n")[0].split(",")[1:]
    columns = [IdentityColumn.parse(text) for text in identity]
    kept = [name for name in attributes if name not in {each.column for each in columns}]
    project.profiles.import_(path, dataset=dataset, id_column="id", identities=columns, attributes=kept)


def ids(project: Project, name: str) -> str:
    numbers = project.segments.members(name)
    return "".join(str(number + 1) for number in numbers)
