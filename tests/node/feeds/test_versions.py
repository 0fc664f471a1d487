"""Which version of a feed is in force, and what one adds to another: pure decisions that both sides make alike."""

from dataclasses import replace

from sides import EMAIL, PHONE

from node.feeds import versions
from protocol.feed import Definition, SegmentRef


def version(number: int, names: str, uses: tuple[str, ...] = (), namespaces: tuple[str, ...] = (EMAIL,)) -> Definition:
    return Definition(
        feed=bytes(16),
        version=number,
        name="f",
        description="",
        segments=tuple(SegmentRef(id=name.encode() * 16, name=name) for name in names),
        namespaces=namespaces,
        restricted_uses=uses,
        created=0,
    )


def in_force(*offers: Definition) -> int:
    return versions.in_force(offers).version


def test_which_version_is_in_force() -> None:
    one, two, three, four = version(1, "ab"), version(2, "abx"), version(3, "b"), version(4, "bx")
    assert in_force(one) == in_force(one, two) == 1
    assert in_force(one, two, three, four) == in_force(two, three, four) == in_force(three, four) == 3
    assert in_force(four) == in_force(four, version(5, "bx")) - 1 == 4
    assert in_force(one, version(2, "ab", ("analytics",))) == 1
    assert in_force(version(1, "ab", ("analytics",)), two) == 1
    assert in_force(version(1, "ab", ("analytics",)), version(2, "ab")) == 2


def test_what_only_takes_out() -> None:
    before = replace(version(1, "ab", ("analytics",), (EMAIL, PHONE)), membership_days=30, valid_until=100)
    relabelled = tuple(replace(each, labels=("C9",)) for each in before.segments)
    for after in (
        before,
        replace(before, segments=before.segments[:1]),
        replace(before, segments=relabelled),
        replace(before, namespaces=(PHONE,)),
        replace(before, restricted_uses=()),
        replace(before, membership_days=1),
        replace(before, valid_until=99),
        replace(before, description="in other words"),
    ):
        assert versions.only_removes(before, after)
    for after in (
        version(2, "abc", ("analytics",)),
        replace(before, segments=(replace(before.segments[0], name="c"), before.segments[1])),
        replace(before, restricted_uses=("analytics", "email-targeting")),
        replace(before, membership_days=31),
        replace(before, valid_until=101),
        replace(before, valid_until=None),
    ):
        assert not versions.only_removes(before, after)
    assert not versions.only_removes(version(1, "ab"), version(2, "ab", namespaces=(EMAIL, PHONE)))


def test_what_a_version_adds_and_takes_out() -> None:
    before, after = version(1, "ab", ("analytics",)), version(2, "bc", (), (EMAIL, PHONE))
    found = versions.difference(before, after)
    assert found["adds"] == {
        "segments": [{"name": "c", "labels": []}],
        "namespaces": [PHONE],
        "restricted_uses": [],
    }
    assert found["takes_out"] == {
        "segments": [{"name": "a", "labels": []}],
        "namespaces": [],
        "restricted_uses": ["analytics"],
    }
    assert [each.name for each in versions.new_segments(before, after)] == ["c"]
