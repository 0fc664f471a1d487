"""The demo: two real nodes on loopback, driven by the commands that a user types."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from io import StringIO
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import output

if TYPE_CHECKING:
    from .main import Context
    from .sample import Sample

MINIMUM = 1_000  # of the default terms
SMALL = 6_000  # under this size the default minimums would hide everything
WAIT_SECONDS = 60
FAR = 300  # identities from the minimum: seven standard deviations of the noise of an overlap
FEED = "summer"
RECEIVER_PORT = 8473
MEANT_FOR_OTHERS = ("VESICA_PROJECT", "VESICA_TOKEN", "VESICA_TRACEBACK")  # whose nodes are not those of a demo
_PORTS = range(10_000, 32_768)  # systems give outgoing connections higher ones, even one that a service is about to use
_places = count(random.SystemRandom().randrange(len(_PORTS)))
COMMAND = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]  # what starts a `vesica`


class DemoFailed(click.ClickException):
    pass


class Side:
    """One organisation: a home, and the commands that its people type."""

    def __init__(self, name: str, folder: Path, *, show: bool) -> None:
        self.name, self.home, self._show = name, folder / name, show

    def run(self, *arguments: str) -> Any:
        """Run one `vesica` command and return its JSON document."""
        if self._show:
            shown = " ".join(_short(each) for each in arguments)
            click.secho(f"{self.name}$ ", bold=True, nl=False)
            output.echo(f"vesica {shown}")
        code, said = self.execute([*arguments, "--home", str(self.home), "--json"])
        try:
            document = json.loads(said)
        except ValueError:
            raise DemoFailed(f"{self.name}: vesica {' '.join(arguments)}: {said}") from None
        if code:
            reason = document["error"]["message"] if "error" in document else "failed"
            raise DemoFailed(f"{self.name}: vesica {' '.join(arguments)}: {reason}")
        return document

    def execute(self, arguments: list[str]) -> tuple[int, str]:
        """Run a command in this process, and return its exit code and what it printed."""
        from .main import main

        meant = {name: os.environ.pop(name) for name in MEANT_FOR_OTHERS if name in os.environ}
        try:
            with redirect_stdout(StringIO()) as said:
                return main(arguments), said.getvalue()
        finally:
            os.environ.update(meant)

    def refused(self, *arguments: str) -> str:
        """Run a command that must be refused and return what it says."""
        try:
            self.run(*arguments)
        except DemoFailed as error:
            return error.message.partition(": ")[2].partition(": ")[2]
        raise DemoFailed(f"{self.name}: vesica {' '.join(arguments)} should have been refused")

    def until(self, done: Callable[[Any], bool], *arguments: str) -> None:
        """Repeat a command until its document is as awaited: the other side's letters take a moment."""
        deadline = time.monotonic() + WAIT_SECONDS
        quiet = type(self)(self.name, self.home.parent, show=False)
        while not done(quiet.run(*arguments)):
            if time.monotonic() > deadline:
                raise DemoFailed(f"{self.name}: waited in vain for {' '.join(arguments)}")
            time.sleep(0.2)

    @contextmanager
    def serving(self, address: str) -> Iterator[None]:
        """Keep this side's service running meanwhile."""
        with (self.home / "service.log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603
                [*COMMAND, "node", "serve", "--listen", address, "--home", str(self.home)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise DemoFailed(f"{self.name}: the service did not start: {Path(log.name).read_text()[-1000:]}")
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@click.command()
@click.option(
    "--size", default=10_000, show_default=True, type=click.IntRange(200, 1_000_000), metavar="N", help="People a side."
)
@click.option("--keep", metavar="DIR", type=click.Path(), help="Leave both nodes and the sample files there.")
@click.option(
    "--receiver",
    metavar="DIR",
    type=click.Path(),
    help="Only receive webhooks, on port 8473 of this machine, until Ctrl-C; the certificate and the secret are in DIR.",
)
@click.pass_obj
def cli(ctx: "Context", size: int, keep: str | None, receiver: str | None) -> None:
    """Show it all: two nodes on this machine, sample files, an estimate, a feed, a release, destinations.

    A retailer (opt-out) shares three segments with a publisher (opt-in), and sends one to a folder and to a webhook. At the
    end stands what each side learned, next to what a plain join of the two files gives; they must agree, or the demo fails.

    \b
    Example: vesica demo --size 20000
    """
    from node.homes import check_outside

    from .sample import Sample

    if receiver is not None:
        _receive(Path(receiver))
        return
    if keep and Path(keep).is_dir() and any(Path(keep).iterdir()):
        raise click.UsageError(f"{keep} is not empty: name a directory that the demo may fill.")
    folder = Path(keep) if keep else Path(tempfile.mkdtemp(prefix="vesica-demo-"))
    check_outside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        sample = Sample.make(size)
        sample.write(folder)
        document = _story(folder, sample, size, show=not ctx.json)
        document["wrong"] = _wrong(document)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    output.emit(ctx, document, lambda: _print(document))
    if document["wrong"]:
        click.get_current_context().exit(1)


def _receive(folder: Path) -> None:
    from .receiver import serve

    try:
        serve(folder, RECEIVER_PORT)
    except OSError as error:
        raise click.ClickException(f"port {RECEIVER_PORT} cannot be had: {error.strerror}") from None


def _story(folder: Path, sample: "Sample", size: int, *, show: bool) -> dict[str, Any]:
    retailer, publisher = Side("retailer", folder, show=show), Side("publisher", folder, show=show)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    minimum = MINIMUM if size >= SMALL else size // 20
    if show:
        output.echo(f"A retailer and a publisher with {size:,} people each, half of them in common, in {folder}\n")
        if minimum < MINIMUM:
            output.echo(f"With so few people both sides lower the agreed minimums from {MINIMUM:,} to {minimum:,}.\n")
    for side, address in ((retailer, addresses[0]), (publisher, addresses[1])):
        side.run("node", "init", "--org", f"{side.name.title()} Ltd", "--address", address, "--listen", address)
        if minimum < MINIMUM:
            names = ("--minimum-universe", "--minimum-segment", "--minimum-overlap")
            side.run("project", "terms", "--yes", *(word for name in names for word in (name, str(minimum))))
    _load(retailer, publisher, folder)
    with ExitStack() as services:
        services.enter_context(retailer.serving(addresses[0]))
        services.enter_context(publisher.serving(addresses[1]))
        connect_id = publisher.run("partner", "id")["connect_id"]
        terms = retailer.run("partner", "request", connect_id, "--as", "publisher", "--yes")["terms"]
        agreement = publisher.run("partner", "show", "retailer-ltd")["agreement"]
        publisher.run("partner", "accept", "retailer-ltd", "--agreement", agreement)
        retailer.until(lambda rows: rows[0]["status"] == "active", "partner", "list")
        spelled = [item for name in ("email_sha256", "phone_sha256") for item in ("--namespace", name)]
        share = ("--partner", "publisher", *spelled)
        refusal = retailer.refused("feed", "create", "scores", "--segment", "good-credit", *share)
        segments = [item for name in _segments() for item in ("--segment", name)]
        retailer.run("feed", "create", FEED, *segments, *share, "--restrict", "export-to-third-party")
        estimates = retailer.run("feed", "estimate", FEED, "--yes")
        retailer.run("feed", "publish", FEED)
        publisher.until(lambda feeds: bool(feeds["received"]), "feed", "list")
        publisher.run("feed", "enable", FEED, "--version", publisher.run("feed", "show", FEED)["hash"])
        retailer.until(lambda feeds: feeds["shared"][0]["partners"]["publisher"] == "enabled", "feed", "list")
        runs = retailer.run("feed", "sync", FEED)["runs"]
        members = {name: _members(publisher, folder, name) for name in _segments()}
        from . import demo_destinations  # it needs certificates

        sent = demo_destinations.show(retailer, folder, sample)
    for side in (retailer, publisher):
        side.run("audit", "verify")
    return {
        "terms": terms,
        "refused": {"segment": "good-credit", "message": refusal},
        "estimates": [_compared(row, sample) for row in estimates],
        "members": [
            {
                "segment": name,
                "count": len(found),
                "expected_count": len(sample.members(name)),
                "equal": found == sample.members(name),
            }
            for name, found in members.items()
        ],
        "runs": runs,
        "destinations": sent,
        "learned": {
            "retailer": "the estimates above and that the publisher took the release; not who matched, nor how many",
            "publisher": "which of its own people are in the three segments; nothing about anyone else",
            "anyone else": "nothing: there is no third party",
        },
    }


def _load(retailer: Side, publisher: Side, folder: Path) -> None:
    retailer.run("consent", "model", "opt-out")
    publisher.run("consent", "model", "opt-in")
    retailer.run(
        *("profile", "import", str(folder / "retailer.csv"), "--dataset", "crm", "--id", "customer"),
        *("--identity", "e-mail=email_sha256", "--identity", "mobile=phone_sha256", "--region", "GB"),
        *("--consent", "share", "--attribute", "orders", "--attribute", "credit_score"),
    )
    publisher.run(
        *("profile", "import", str(folder / "publisher.csv.gz"), "--dataset", "readers", "--id", "user"),
        *("--identity", "email_hash=email_sha256", "--identity", "phone=phone_sha256", "--region", "GB"),
        *("--consent", "share"),
    )
    retailer.run("segment", "create", "frequent-buyers", "--rule", "orders >= 6")
    for name in ("lapsed", "new-parents"):
        retailer.run("segment", "create", name, "--members", str(folder / f"{name}.csv"))
    retailer.run("segment", "create", "good-credit", "--rule", "credit_score >= 700")
    retailer.run("label", "apply", "C11", "--field", "crm.credit_score")


def _members(publisher: Side, folder: Path, segment: str) -> set[str]:
    name = f"demo-{segment}"
    publisher.run("segment", "create", name, "--rule", f"received.retailer-ltd.{segment}")
    file = folder / f"{name}.csv"
    publisher.run("segment", "export", name, str(file), "--use", "onsite-personalisation")
    return set(file.read_text().splitlines()[1:])


def _compared(row: dict[str, Any], sample: "Sample") -> dict[str, Any]:
    namespace = row["namespace"].partition("/")[0]
    overlap, consented = sample.estimate(row["segment"], namespace)
    return {**row, "expected": {"overlap": overlap, "consented": consented}}


def _wrong(document: dict[str, Any]) -> list[str]:
    """Name what the protocol and the plain join disagree on; near the minimum, noise decides what is answered."""
    wrong = [f"members of {row['segment']}" for row in document["members"] if not row["equal"]]
    wrong += [f"what destination {row['name']} has" for row in document["destinations"] if not row["equal"]]
    minimum = document["terms"]["minimum_overlap"]
    for row in document["estimates"]:
        what = f"{row['segment']} by {row['namespace']}"
        distance = row["expected"]["overlap"] - minimum
        if abs(distance) > FAR and row["status"] != ("ok" if distance > 0 else "below_minimum"):
            wrong.append(f"the estimate of {what} is {row['status']}")
        for name, interval in (("overlap", "interval"), ("consented", "consented_interval")):
            if row[name] is not None:
                half = max(row[interval][1] - row[name], row[name] - row[interval][0])
                if abs(row[name] - row["expected"][name]) > 3 * half:
                    wrong.append(f"{name} of {what}")
    return wrong


def _print(document: dict[str, Any]) -> None:
    output.echo(f"\nRefused by a usage label: {document['refused']['message']}")
    output.echo("\nBefore anything was shared, the retailer learned (with noise, by agreement):")
    output.table(
        ("segment", "matched by", "in common", "plain join", "with consent", "plain join"),
        (
            [
                row["segment"],
                row["namespace"].partition("_")[0],
                _estimate(row["overlap"], row["interval"], row["status"]),
                row["expected"]["overlap"],
                _estimate(row["consented"], row["consented_interval"], row["status"]),
                row["expected"]["consented"],
            ]
            for row in document["estimates"]
        ),
    )
    output.echo("\nThe publisher then learned which of its own people are in each segment:")
    output.table(
        ("segment", "members", "plain join", "the same people"),
        ([row["segment"], row["count"], row["expected_count"], row["equal"]] for row in document["members"]),
    )
    output.echo("\nThe retailer's destinations have, after somebody withdrew consent:")
    output.table(
        ("destination", "kind", "segment", "people", "plain set", "the same people"),
        (
            [row["name"], row["kind"], row["segment"], row["count"], row["expected_count"], row["equal"]]
            for row in document["destinations"]
        ),
    )
    output.echo("\nWhat each side learned:")
    output.lines(document["learned"].items())
    if where := _where():
        output.echo(f"\nThe command vesica is at {where}")
    if document["wrong"]:
        output.echo(f"\nThe protocol and the plain join differ: {', '.join(document['wrong'])}", err=True)


def _where() -> str | None:
    """Return where the command is, if a shell does not find it by its name."""
    return None if shutil.which("vesica") else str(Path(sys.executable).with_name("vesica"))


def _estimate(value: int | None, interval: list[int] | None, status: str) -> str:
    if value is None or interval is None:
        return status.replace("_", " ")
    return f"{value:,} ± {max(interval[1] - value, value - interval[0]):,}"


def _segments() -> tuple[str, ...]:
    from .sample import SEGMENTS

    return SEGMENTS


def _short(text: str) -> str:
    shown = f"{text[:24]}..." if text.startswith("vesica1") else Path(text).name if text.startswith(os.sep) else text
    return f"'{shown}'" if " " in shown else shown


def free_ports(count: int) -> list[int]:
    """Return different ports of this machine that nobody listens on, none of which an outgoing connection can take."""
    found: list[int] = []
    for place in islice(_places, len(_PORTS)):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", _PORTS[place % len(_PORTS)])).close()
            found.append(_PORTS[place % len(_PORTS)])
        if len(found) == count:
            return found
    raise OSError(f"no {count} ports from {_PORTS[0]} to {_PORTS[-1]} are free")
