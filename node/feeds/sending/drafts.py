"""The four steps from a name to a published feed: configure, segments, share, review."""

from dataclasses import dataclass

from protocol.feed import Definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of the steps, and the command that completes it."""

    name: str
    complete: bool
    command: str


def steps(definition: Definition, *, partners: int, published: bool) -> list[Step]:
    """Return the four steps of a feed; the last one can be taken when the others are complete."""
    edit = f"vesica feed edit {definition.name}"
    return [
        Step(name="configure", complete=bool(definition.namespaces), command=f"{edit} --add-namespace NAME"),
        Step(name="segments", complete=bool(definition.segments), command=f"{edit} --add-segment NAME"),
        Step(name="share", complete=partners > 0, command=f"{edit} --add-partner NAME"),
        Step(name="review", complete=published, command=f"vesica feed publish {definition.name}"),
    ]
