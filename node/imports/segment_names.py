"""What segments of another product are called here."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidInput
from ..inputs.sources import Source

_NO_NAME = re.compile(r"[^a-z0-9._-]+")
_PAGES = ("segments", "list", "traits", "children")  # where a page of a list has its objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What segments or traits are called, by id; and the ids that integration codes stand for."""

    names: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str | None) -> "Names":
        """Read a JSON object {id: name}, a JSON list (or a page of one) of objects with id or sid, name and perhaps
        integrationCode, as the products' own interfaces give it, or CSV with the columns id and name."""
        if path is None:
            return cls()
        path = Path(path)
        text = "\n".join(line for _, line in Source.of_lines(path, "names").lines())
        if not text.lstrip().startswith(("{", "[")):
            batches = Source.open(path, ["id", "name"]).batches()
            rows = [row for each in batches for row in zip(each.columns["id"], each.columns["name"], strict=True)]
            return cls(names={key.strip(): name.strip() for key, name in rows if key.strip() and name.strip()})
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidInput(f"{path.name} is broken JSON", hint="give {id: name}, or a list of objects") from None
        page = (
            next((found[key] for key in _PAGES if isinstance(found.get(key), list)), None)
            if isinstance(found, dict)
            else found
        )
        if page is None:
            return cls(names={str(key): name for key, name in found.items() if isinstance(name, str)})
        names, codes = {}, {}
        for each in page:
            key = each.get("id", each.get("sid")) if isinstance(each, dict) else None
            if isinstance(key, (str, int)) and isinstance(each.get("name"), str):
                names[str(key)] = each["name"]
                if isinstance(code := each.get("integrationCode"), str) and code:
                    codes[code] = str(key)
        return cls(names=names, codes=codes)

    def of(self, keys: Iterable[str]) -> dict[str, str]:
        """Return a segment name for each id: the given one or the id, in our spelling, with the id where two are one."""
        wanted = {key: _spelled(self.names.get(key, key)) for key in keys}
        same: dict[str, set[str]] = {}
        for key, name in [*wanted.items(), *((key, _spelled(name)) for key, name in self.names.items())]:
            same.setdefault(name, set()).add(key)
        return {key: name if len(same[name]) == 1 else _spelled(f"{name[:26]}-{key}") for key, name in wanted.items()}


def _spelled(text: str) -> str:
    return _NO_NAME.sub("-", text.lower()).strip("-._")[:63].rstrip("-._") or "segment"
