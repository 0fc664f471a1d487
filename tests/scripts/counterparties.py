"""Programs of others that tests send to, each in an environment of its own, made once outside the repository.

    python tests/scripts/counterparties.py [NAME ...]      makes those that are missing; without a name all

They are under VESICA_COUNTERPARTIES, ~/.cache/vesica/counterparties unless that is set. `.ci/run` makes them; a test whose
counterparty is missing is skipped, and says so.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("VESICA_COUNTERPARTIES") or Path.home() / ".cache" / "vesica" / "counterparties")
DONE = "made"  # is written last: what a kill left is made again


@dataclass(frozen=True, slots=True)
class Counterparty:
    """A package of PyPI, or of npm, and the program that it brings."""

    package: str
    program: str
    npm: bool = False

    @property
    def folder(self) -> Path:
        return FOLDER / self.package

    def path(self) -> Path | None:
        """Return the path of its program, None where it was not made."""
        return self.folder / self.program if (self.folder / DONE).exists() else None

    def make(self) -> float:
        """Make it, and return the seconds that it took; raises CalledProcessError."""
        began = time.monotonic()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.npm:
            flags = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(self.folder)]
            subprocess.run(["npm", "install", *flags, self.package], check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.folder)], check=True)
            pip = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python")]
            subprocess.run(
                [*pip, "install", "-qqq", "--no-compile", "--disable-pip-version-check", self.package], check=True
            )
        (self.folder / DONE).touch()
        return time.monotonic() - began


COUNTERPARTIES = {
    "target-jsonl": Counterparty("target-jsonl==0.1.4", "bin/target-jsonl"),
    "target-postgres": Counterparty("meltanolabs-target-postgres==0.8.1", "bin/target-postgres"),
    "airbyte": Counterparty("airbyte-cdk==7.39.1", "bin/python"),
    "audience-manager-cd": Counterparty(
        "@adobe/aio-lib-audience-manager-cd@2.1.0",
        "node_modules/@adobe/aio-lib-audience-manager-cd/src/index.js",
        npm=True,
    ),
    "s3rver": Counterparty("s3rver@3.7.1", "node_modules/.bin/s3rver", npm=True),
}


def _made(name: str) -> str:
    """Make one unless it is there; one that cannot be had ends nothing, since its tests are skipped."""
    if COUNTERPARTIES[name].path() is not None:
        return f"{name}: is there"
    try:
        return f"{name}: {COUNTERPARTIES[name].make():.0f} s"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{name}: cannot be made ({type(error).__name__}), its tests are skipped"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COUNTERPARTIES)}")
    names = parser.parse_args(words).names or list(COUNTERPARTIES)
    with ThreadPoolExecutor(2) as threads:
        for line in threads.map(_made, names):
            print(line, flush=True)


if __name__ == "__main__":
    main()
