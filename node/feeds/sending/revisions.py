"""What a data revision contains, and what changed since the one that the partner took last."""

from dataclasses import dataclass

import numpy as np

from psi.join import distinct, match, order_of
from psi.values import U8, Values, sort_keys

from ...storage.cache import Cache
from .selection import Selection

KINDS = ("run", "manifest", "content", "digests", "gone")  # of files that a run has in the cache; its id follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Identities of one namespace, sorted, and their bitmaps over the feed's segments, uint8 (n, width)."""

    values: Values
    bitmaps: U8

    def since(self, before: "Content") -> "Content":
        """Return what is new or has another bitmap than before, and an all-zero bitmap for who is gone."""
        places, found = match(sort_keys(before.values), sort_keys(self.values))
        changed, gone = np.ones(len(self.values), bool), np.ones(len(before.values), bool)
        changed[found] = (before.bitmaps[places] != self.bitmaps[found]).any(axis=1)
        gone[places] = False
        values = Values.join([self.values.take(changed), before.values.take(gone)])
        bitmaps = np.concatenate([self.bitmaps[changed], np.zeros_like(before.bitmaps[gone])])
        arrangement = order_of(values)
        return Content(values=values.take(arrangement), bitmaps=bitmaps[arrangement])


Contents = dict[str, Content]  # by namespace


def of(selection: Selection, width: int) -> Contents:
    return {
        namespace: Content(values=audience.values, bitmaps=audience.bitmaps(width))
        for namespace, audience in sorted(selection.audiences.items())
    }


def since(before: Contents, now: Contents) -> Contents | None:
    """Return the changes, or None if they are not less than half of `now`: then a full revision is simpler."""
    if before.keys() != now.keys():
        return None
    changes = {namespace: content.since(before[namespace]) for namespace, content in now.items()}
    few = 2 * sum(len(each.values) for each in changes.values()) < sum(len(each.values) for each in now.values())
    return changes if few else None


Gone = dict[str, U8]  # by namespace: F of those whom a revision has and who were erased since, uint8 (n, 64)


def gone(cache: Cache, run_id: str) -> Gone:
    """Return F of the erased people of a revision: all that is left of them, so that the next one can take them out."""
    found: Gone = {}
    for name in cache.names(f"gone {run_id} "):
        stored = cache.load(name)
        if stored is not None:
            found[name.split(" ", 2)[2]] = stored["prf"].astype(np.uint8, copy=False)
    return found


def keep_gone(cache: Cache, run_id: str, namespace: str, prf: U8) -> None:
    """Keep F of people who are erased from a revision, beside that of those who were before."""
    before = gone(cache, run_id).get(namespace, prf[:0])
    cache.save(f"gone {run_id} {namespace}", prf=distinct(np.concatenate([before, prf])))
