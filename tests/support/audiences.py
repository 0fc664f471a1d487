"""Data sources and traits of the Audience Manager side, and who has them."""

from node.audiencemanager import audience_segments, sources, traits
from node.audiencemanager.records import DAYS, NewSegment, NewTrait, SourceKind, TraitKind
from node.audiencemanager.trait_members import TraitMembers
from node.audiencemanager.visitors import opened
from node.inputs.normalise import normalise, rule
from node.node import Node


class Audience:
    """The Audience Manager side of a node's project "default"."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.scope = node.project("default").scope

    def source(self, name: str, *, namespace: str | None = None, code: str | None = None) -> int:
        with self.scope.begin() as tx:
            return sources.add(self.scope, tx, name, SourceKind.OWN, namespace, code).number

    def trait(
        self, source: int, name: str, rule: str | None = None, *, code: str | None = None, days: int = DAYS
    ) -> int:
        kind = TraitKind.ON_BOARDED if rule is None else TraitKind.RULE_BASED
        wanted = NewTrait(name=name, source=source, kind=kind, rule=rule, integration_code=code, days=days)
        with self.scope.begin() as tx:
            return traits.add(self.scope, tx, wanted).number

    def segment(self, source: int, name: str, rule: str) -> int:
        with self.scope.begin() as tx:
            return audience_segments.add(self.scope, tx, NewSegment(name=name, source=source, rule=rule)).number

    def has(self, trait: int, source: int, *ids: str) -> list[bool]:
        """Return whether the visitor of each id has a trait; False where nobody has the id."""
        with self.scope.home.read() as tx:
            members = TraitMembers(self.scope, tx).of(trait)
            namespace = next(each.namespace for each in sources.stored(self.scope, tx) if each.number == source)
        assert namespace is not None
        values = normalise(rule(namespace), ids).values
        numbers = opened(self.scope).numbers(source, values, make=False).tolist()
        return [each in members for each in numbers]
