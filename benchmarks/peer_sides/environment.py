"""The peers' own virtual environment: nothing of theirs is installed beside the product."""

import os
import subprocess
import sys
import venv
from functools import cached_property
from pathlib import Path

PINNED = {"openmined-psi": "2.0.6", "spu": "0.9.5"}


class Unavailable(Exception):
    """A peer cannot be installed, or does not run on this machine; the text says why."""


def default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vesica" / "peers"


class Environment:
    """A virtual environment in `folder`, made when it is first needed and used again by the next run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._reasons: dict[str, str] = {}

    def has(self, package: str) -> bool:
        """Tell whether the package is there in the pinned version, without installing anything."""
        return (self._folder / "bin" / "python").exists() and self._version(package) == PINNED[package]

    def python_with(self, package: str) -> Path:
        """Return the interpreter once the package is there in the pinned version. Raise Unavailable."""
        if package in self._reasons:
            raise Unavailable(self._reasons[package])
        wanted = f"{package}=={PINNED[package]}"
        if self._version(package) != PINNED[package]:
            print(f"installing {wanted} in {self._folder}", file=sys.stderr)
            install = (self._python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted)
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                self._reasons[package] = f"not installed: {(errors or ['pip failed'])[-1]}"
                raise Unavailable(self._reasons[package])
        return self._python

    @cached_property
    def _python(self) -> Path:
        python = self._folder / "bin" / "python"
        if not python.exists():
            venv.EnvBuilder(with_pip=True).create(self._folder)
        return python

    def _version(self, package: str) -> str:
        code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        done = subprocess.run([self._python, "-c", code, package], capture_output=True, text=True, check=False)
        return done.stdout.strip()
