"""Files of an ad hoc match, as columns of hashed identities."""

import hashlib

import numpy as np

from node.adhoc.session import Column, Columns
from psi.values import Values


def emails(first: int, last: int) -> list[str]:
    return [f"person.{number}@example.com" for number in range(first, last)]


def phones(first: int, last: int) -> list[str]:
    return [f"+447400{100_000 + number}" for number in range(first, last)]


def columns(**namespaces: list[str]) -> Columns:
    found = {}
    for name, texts in namespaces.items():
        values = Values.of([hashlib.sha256(text.encode()).digest() for text in texts])
        found[f"{name}_sha256/{'lc' if name == 'email' else 'e164'}-v1"] = Column.of_rows(values, np.arange(len(texts)))
    return found
