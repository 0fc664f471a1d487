"""One command per habit: `nox -s tests`, `nox -s check`."""

import nox

nox.options.sessions = ["check", "tests"]
TYPED = ["benchmarks", *(f"tests/{name}" for name in ("psi", "protocol", "cli", "support", "scripts", "node"))]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests."""
    session.install("--editable", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Check style and types."""
    session.install("--editable", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("mypy", *TYPED)
