"""What the demo says at its end to whoever has the command off their PATH."""

import shutil
import sys
from pathlib import Path

import pytest

from cli import demo

SHOWN = {
    "refused": {"message": "a label forbids it"},
    "estimates": [],
    "members": [],
    "destinations": [],
    "learned": {},
    "wrong": [],
}


@pytest.mark.parametrize("found", [None, "/usr/bin/vesica"])
def test_where_the_command_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: found)
    demo._print(SHOWN)
    said = f"\nThe command vesica is at {Path(sys.executable).parent / 'vesica'}\n"
    assert (said in capsys.readouterr().out) is (found is None)
