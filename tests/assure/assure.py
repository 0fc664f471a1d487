"""The long checks (`make assure`), first of the curve kernel: each prints one line, and the first that fails ends the run.

    python tests/assure/assure.py [--elements 100000] [--only bounds|sanitizers|secrets|agreement|timing|kills|months|changes|
        weeks]

bounds      a build that compares every limb with its bound runs the tests
sanitizers  AddressSanitizer and UndefinedBehaviorSanitizer run the tests
secrets     valgrind finds no jump and no address that depends on a scalar or a hashed identity (portable, avx2)
agreement   libsodium's bytes on so many random elements, for every backend and operation
timing      Welch's t between a fixed scalar and random ones, for every backend in C
kills       either node, or both, die at 100 seeded places of runs and edits; `make test` takes 6 of them
months      a month between three organisations, from five seeds; `make test` takes one
changes     random changes on both sides of a feed, from twelve seeds; `make test` takes one
weeks       a week of destinations that fail and processes that are killed, from six seeds of 60 steps; `make test` takes one of 5

The first three need gcc and valgrind with its headers.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = [f"tests/psi/test_{name}.py" for name in ("backends", "changed_arrays", "join", "kernel", "vectors", "oprf")]
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"


def run(*command: str | Path, expect: int = 0, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode != expect:
        sys.exit(f"assure: {' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def built(directory: Path, flags: str) -> str:
    """Return a PYTHONPATH under which `psi` has an extension that was compiled with `flags`."""
    shutil.copytree(ROOT / "psi", directory / "psi", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    options = ["--build-lib", directory, "--build-temp", directory / "objects"]
    run(sys.executable, "setup.py", "-q", "build_ext", "--force", *options, CFLAGS=flags, LDFLAGS=flags)
    if not list(directory.glob("psi/_kernel*.so")):
        sys.exit(f"assure: the extension was not built with {flags}")
    return str(directory)  # the extension beside the sources is found first there, so it is the one that runs


def tests(path: str, *options: str, **environment: str) -> str:
    # -P: the working directory's own psi must not win over PYTHONPATH
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *TESTS]
    return last_line(run(*command, PYTHONPATH=path, **environment))


def bounds(directory: Path, elements: int) -> str:
    chosen = "not libsodium and not another_thread_changes"  # nothing bounds limbs that somebody else writes
    return tests(built(directory, "-DVESICA_BOUNDS"), "-k", chosen, VESICA_ASSURE="20000")


def sanitizers(directory: Path, elements: int) -> str:
    path = built(directory, SANITIZE)
    runtime = run("gcc", "-print-file-name=libasan.so").strip()
    options = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return tests(path, "-k", "not libsodium", **options)


def secrets(directory: Path, elements: int) -> str:
    available = run(sys.executable, "-c", "from psi import kernel; print(*kernel.available())").split()
    found = []
    for name in (name for name in ("portable", "avx2") if name in available):
        program = directory / f"secret_{name}"
        sources = ["tests/assure/secret.c", f"psi/curve/{name}.c"]
        run("gcc", "-O3", "-g", "-std=gnu11", f"-DUNDER_TEST=backend_{name}", *sources, "-o", program)
        memcheck = ["valgrind", "-q", "--error-exitcode=9"]
        lines = run(*memcheck, program).splitlines()
        run(*memcheck, program, "leak", expect=9)  # else the check itself is blind
        found.append(f"{name}, {len(lines)} operations without a report, and a leak on purpose was reported")
    return "; ".join(found)


def agreement(directory: Path, elements: int) -> str:
    return tests(str(ROOT), "-k", "random_elements or random_bytes", VESICA_ASSURE=str(elements))


def timing(directory: Path, elements: int) -> str:
    names = run(sys.executable, "-c", "from psi import kernel; print(*kernel.available())").split()
    return "\n".join(
        run(sys.executable, "tests/assure/timing.py", name).strip() for name in names if name != "libsodium"
    )


def kills(directory: Path, elements: int) -> str:
    return nodes("tests/node/test_killed_anywhere.py", VESICA_KILLS="100")


def months(directory: Path, elements: int) -> str:
    return nodes("tests/node/test_month.py", VESICA_MONTHS="1 2 3 4 5")


def changes(directory: Path, elements: int) -> str:
    return nodes("tests/node/feeds/test_random_changes.py", VESICA_CHANGES=" ".join(map(str, range(1, 13))))


def weeks(directory: Path, elements: int) -> str:
    return nodes("tests/node/test_week.py", VESICA_WEEKS="1 2 3 4 5 6", VESICA_STEPS="60")


def nodes(file: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "3", "-p", "no:cacheprovider", file]
    return last_line(run(*command, **environment))


CHECKS = (bounds, sanitizers, secrets, agreement, timing, kills, months, changes, weeks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--only", choices=[check.__name__ for check in CHECKS])
    arguments = parser.parse_args()
    for check in CHECKS:
        if arguments.only in (None, check.__name__):
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as directory:
                found = check(Path(directory), arguments.elements)
            print(f"{check.__name__} ({time.monotonic() - started:.0f} s): {found}", flush=True)


if __name__ == "__main__":
    main()
