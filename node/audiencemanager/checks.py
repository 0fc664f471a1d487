"""What holds for traits and segments of traits alike: of their names, descriptions, folders and integration codes."""

from collections.abc import Callable, Mapping
from typing import Any

from ..access.scope import Scope
from ..errors import AlreadyExists, InvalidInput
from ..storage.database import Tx
from . import folders, sources
from .records import MAX_DESCRIPTION, TOP, NewSegment, NewTrait, check_title

ByCode = Callable[[Scope, Tx, int, str], object | None]  # the one that has an integration code in a data source


def check_new(scope: Scope, tx: Tx, wanted: NewTrait | NewSegment, noun: str, by_code: ByCode) -> None:
    """Raise InvalidName, InvalidInput or NotFound for one that cannot be made, and AlreadyExists for an integration code
    that one of its data source has."""
    check_title(wanted.name, noun)
    _check_description(wanted.description)
    if sources.by_number(scope, tx, wanted.source) is None:
        raise sources.no_source(wanted.source)
    _check_folder(scope, tx, wanted.folder)
    if wanted.integration_code is not None:
        check_title(wanted.integration_code, "integration code")
        if by_code(scope, tx, wanted.source, wanted.integration_code) is not None:
            raise AlreadyExists(
                f"a {noun} of the data source {wanted.source} has this integration code", hint="choose another one"
            )


def check_changed(scope: Scope, tx: Tx, changed: Mapping[str, Any], noun: str) -> None:
    """Raise InvalidName, InvalidInput or NotFound for another name, description or folder that cannot be."""
    if "name" in changed:
        check_title(changed["name"], noun)
    if "description" in changed:
        _check_description(changed["description"])
    if "folder" in changed:
        _check_folder(scope, tx, changed["folder"])


def _check_description(text: str) -> None:
    if len(text) > MAX_DESCRIPTION:
        raise InvalidInput(f"a description has at most {MAX_DESCRIPTION:,} characters", hint="shorten it")


def _check_folder(scope: Scope, tx: Tx, number: int) -> None:
    if number != TOP and folders.by_number(scope, tx, number) is None:
        raise folders.no_folder(number)
