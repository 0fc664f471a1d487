"""A company of three projects in one node, whose people share devices, and a join by hand."""

from collections.abc import Mapping
from pathlib import Path

from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project

Devices = Mapping[str, tuple[str, ...]]  # by person: "i1" is an iPhone's idfv, "a1" an Android's id

CRM: Devices = {
    "ann": ("i1",),
    "bob": ("a2", "i2"),
    "cat": ("a3",),
    "dan": ("i4",),
    "eve": ("i5",),
    "fay": (),
}
APP: Devices = {
    "u1": ("i9", "i1"),  # by the second device
    "u2": ("a2",),
    "u3": ("i3",),  # spelled as cat's Android is
    "u4": ("i4",),
    "u5": ("i4", "a8"),  # shares a device with u4
    "u6": ("a7",),
}
SHOP: Devices = {"s1": ("a2",), "s2": ("i5",), "s3": ("a9",)}
VIP = ("ann", "bob", "cat", "dan")


def idfv(number: str) -> str:
    return f"00000000-0000-4000-8000-{int(number):012x}"


def android_id(number: str) -> str:
    return f"{int(number):016x}"


def load(project: Project, folder: Path, people: Devices, **attributes: str) -> None:
    """Import people with their devices, one column a device, into the dataset "people"."""
    width = max(map(len, people.values()))
    columns = [f"{kind}{place}" for place in range(width) for kind in ("idfv", "android")]
    rows = [",".join(["id", *columns, *attributes])]
    for person, devices in people.items():
        cells = dict.fromkeys(columns, "")
        for place, device in enumerate(devices):
            kind, spell = ("idfv", idfv) if device[0] == "i" else ("android", android_id)
            cells[f"{kind}{place}"] = spell(device[1:])
        rows.append(",".join([person, *cells.values(), *attributes.values()]))
    file = folder / "people.csv"
    file.write_text("\n".join(rows) + "\n")
    namespaces = {"idfv": "idfv:raw", "android": "android_id:raw"}
    project.profiles.import_(
        file,
        dataset="people",
        id_column="id",
        identities=[
            IdentityColumn.parse(f"{each}={next(kind for word, kind in namespaces.items() if each.startswith(word))}")
            for each in columns
        ],
        attributes=[*attributes],
    )


def lists(project: Project, folder: Path, name: str, people: tuple[str, ...]) -> None:
    file = folder / "members.csv"
    file.write_text("id\n" + "\n".join(people) + "\n")
    if name in {each.name for each in project.segments.all()}:
        project.segments.update(name, file, anyway=True)
    else:
        project.segments.create(name, members_file=file)


def company(node: Node, folder: Path) -> dict[str, Project]:
    """Make the projects crm, app and shop, with people, and switch shared segments on."""
    projects = {name: node.create_project(name) for name in ("crm", "app", "shop")}
    load(projects["crm"], folder, CRM, first_name="Secretvalue")
    load(projects["app"], folder, APP, visits="7")
    load(projects["shop"], folder, SHOP)
    lists(projects["crm"], folder, "vip", VIP)
    node.share_segments(True)
    return projects


def by_hand(members: tuple[str, ...], theirs: Devices, ours: Devices) -> set[str]:
    """Return the people of ours who have a device that a member has too."""
    devices = {device for each in members for device in theirs[each]}
    return {person for person, own in ours.items() if devices & set(own)}


def ids(project: Project, segment: str) -> set[str]:
    """Return who is in a segment, by id."""
    from node.people.snapshots import Snapshot

    known = Snapshot.open(project.scope).profile_ids
    return {known[number].decode() for number in project.segments.members(segment)}
