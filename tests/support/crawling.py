"""A home where what is hidden from one user has telltale names and sizes, and every command with arguments to try there."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from callers import signed_in
from governed import put_unasked
from sides import EMAIL, Pair, Person

from cli.main import Context, cli, main
from node.access.permissions import Permission
from node.access.users import Token
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.transport import client

# Whatever is hidden has a name with this in it; "xyl" stands in the same place of a name that nothing has.
HIDDEN, ABSENT = "zeb", "xyl"
SECRET = range(60, 197)  # who is in the hidden list
SCORED = range(97, 210)  # who has a high score, which is a hidden field
OPEN, FIRST, PEOPLE = range(210), range(95), range(300)
THEIRS, HIDDEN_THEIRS = range(51), range(51, 94)  # what the partner shares

_SETS = [set(SECRET), set(SCORED), set(HIDDEN_THEIRS)]
COUNTS = {
    size
    for hidden in _SETS
    for other in (set(PEOPLE), set(OPEN), set(FIRST))
    for size in (len(hidden & other), len(other - hidden))
    if size not in (0, len(OPEN), len(FIRST), len(PEOPLE), len(THEIRS))
}
TELLTALE = re.compile(
    rf"\S*{HIDDEN}\S*|(?<![\w.:/-])(?:{'|'.join(map(str, sorted(COUNTS)))})(?![\w:/-]|\.\d)", re.IGNORECASE
)

# What may stand in a command: what the user sees, and what is hidden.
NAMES = {
    "segment": ("open", "zebsecret"),
    "rule-segment": ("many", "zebscored"),
    "feed": ("summer", "zebfeed"),
    "draft": ("draft", "zebdraft"),
    "narrowed": ("summer", "zebfirsts"),
    "received": ("back", "zebback"),
    "offer": ("offer", "zeboffer"),
    "reference": ("own.open", "own.zebsecret"),
    "theirs": ("received.globe.theirs", "received.globe.zebtheirs"),
    "condition": ("amount > 5", "zebscore > 5"),
    "field": ("orders.amount", "zebhealth.zebscore"),
    "dataset": ("orders", "zebhealth"),
    "policy": ("plain", "zebonly"),
    "off": ("plain", "zeboff"),
    "job": ("JOB", "zebjob"),  # replaced by ids
    "alert": ("ALERT", "zebalert"),
    "hash": ("HASH", "zebhash"),
    "score": ("amount", "zebscore"),
}


@dataclass(frozen=True)
class Try:
    """Arguments of a command. `compare`: with a hidden name it says the same as with one that nothing has."""

    words: tuple[str, ...] = ()
    compare: bool = True

    def kinds(self) -> list[str]:
        return [kind for kind in NAMES if any(f"{{{kind}}}" in word for word in self.words)]

    def filled(self, *, hidden: bool = False, absent: bool = False) -> list[str]:
        """Return the arguments with the names that the user sees, hidden ones, or some that nothing has."""
        names = {kind: pair[hidden or absent] for kind, pair in NAMES.items()}
        if absent:
            names = {kind: name.replace(HIDDEN, ABSENT) for kind, name in names.items()}
        return [re.sub(r"{([a-z-]+)}", lambda found: names[found[1]], word) for word in self.words]


def t(*words: str) -> Try:
    return Try(words)


def taken(*words: str) -> Try:
    """Return arguments that name what is to be made: a name cannot be used again, and a command says so."""
    return Try(words, compare=False)


# Each command by its words: why it is not tried, or what is tried.
COMMANDS: dict[str, str | list[Try]] = {
    "demo": "it makes homes of its own",
    "doctor": [t()],
    "match dial": "it opens no home",
    "match listen": "it opens no home",
    "node serve": "it takes no token, but the files of the home",
    "node init": [t("--org", "Other")],
    "node restore": [t("people.csv", "--home", "elsewhere")],
    "node backup": [t("backup.tar")],
    "node set": [t(), t("--org", "Other")],
    "node key rotate": [t("--yes")],
    "node passphrase": [t("--remove")],
    "node status": [t(), t("--alerts", "50")],
    "node sync": [t()],
    "project create": [t("other")],
    "project list": [t()],
    "project show": [t()],
    "project resume": [t()],
    "project terms": [t(), t("--minimum-overlap", "2")],
    "profile count": [t()],
    "profile show": [t("a61"), t("a99")],
    "profile erase": [
        t("a61", "--yes"),
        t("a99", "--prove", "--yes"),
        t("--identity", "email_sha256=p99@x.com", "--prove", "--yes"),
    ],
    "profile readmit": [t("a61")],
    "profile import": [
        Try(("people.csv", "--dataset", "{dataset}", "--id", "id", "--attribute", "amount"), compare=False),
        taken("people.csv", "--dataset", "{dataset}", "--id", "id", "--identity", "zebmail=email_sha256"),
    ],
    "profile import-from segment-match": [t("export.json", "--dataset", "taken", "--into", "{segment}")],
    "profile import-from audience-manager": [
        t("people.csv", "--dataset", "taken", "--own-ids"),
        t("people.csv", "--dataset", "taken", "--own-ids", "--into", "{segment}"),
    ],
    "consent import": [t("people.csv", "--id", "id", "--consent", "share")],
    "consent model": [t("opt-in", "--dry-run"), t("opt-in")],
    "consent set": [t("a61", "n"), t("a99", "y", "--namespace", "email_sha256")],
    "consent show": [t(), t("a61"), t("a99"), t("a290")],
    "consent policy create": [
        t("new", "--then", "{condition}"),
        t("new", "--then", "amount > 5", "--if", "{reference}", "--enable"),
        t("new", "--then", "{theirs}", "--action", "analytics"),
        taken("{policy}", "--then", "amount > 5"),
    ],
    "consent policy preview": [
        t("{segment}", "--then", "amount > 5"),
        t("open", "--then", "{condition}"),
        t("open", "first", "--then", "amount > 5", "--if", "{reference}"),
    ],
    "consent policy list": [t()],
    "consent policy enable": [t("{off}"), t("{policy}")],
    "consent policy disable": [t("{off}"), t("{policy}")],
    "consent policy delete": [t("{policy}", "--yes"), t("{off}", "--yes")],
    "label apply": [
        t("C5", "--segment", "{segment}"),
        t("C11", "--segment", "open"),
        t("C12", "--dataset", "crm"),
        t("C5", "--field", "{field}"),
        t("C5", "--dataset", "{dataset}"),
    ],
    "label remove": [
        t("C5", "--segment", "first"),
        t("S1", "--segment", "{segment}"),
        t("C3", "--field", "{field}"),
        t("C3", "--dataset", "{dataset}"),
    ],
    "label create": [t("mine", "--description", "Mine")],
    "label list": [t()],
    "policy check": [
        t("{segment}"),
        t("first"),
        t("first", "--action", "analytics"),
        t("open", "--action", "analytics", "--namespace", "email_sha256"),
        t("--feed", "{feed}"),
        t("--feed", "{narrowed}"),
    ],
    "policy create": [t("own", "--action", "segment-match", "--when", label) for label in ("C3", "S1", "C5")],
    "policy list": [t()],
    "policy enable": [t("restrict-analytics"), t("custom")],
    "policy disable": [t("restrict-data-sharing"), t("restrict-data-sharing", "--yes")],
    "policy edit": [t("custom", "--when", "S1 OR C3")],
    "policy delete": [t("custom", "--yes")],
    "segment create": [
        t("new", "--rule", "{condition}"),
        t("new", "--rule", "{reference}"),
        t("new", "--rule", "{theirs}"),
        t("new", "--members", "people.csv"),
        taken("{segment}", "--rule", "amount > 5"),
    ],
    "segment list": [t()],
    "segment show": [t("{segment}"), t("{rule-segment}"), t("{theirs}"), t("{rule-segment}", "--tree", "yaml")],
    "segment evaluate": [t(), t("{segment}"), t("{rule-segment}")],
    "segment update": [
        t("{rule-segment}", "--rule", "amount > 6"),
        t("many", "--rule", "{reference}"),
        t("{segment}", "--members", "people.csv"),
    ],
    "segment export": [
        t("{segment}", "out.csv"),
        t("{segment}", "out.csv", "--use", "analytics"),
        t("{segment}", "out.csv", "--use", "email-targeting"),
        t("first", "out.csv", "--use", "data-science"),
        t("{rule-segment}", "out.csv", "--use", "email-targeting"),
    ],
    "segment delete": [t("{segment}", "--yes"), t("first", "--yes"), t("{rule-segment}", "--yes"), t("read", "--yes")],
    "partner id": [t()],
    "partner request": [t("CONNECT-ID", "--yes")],
    "partner list": [t()],
    "partner terms": [t("globe")],
    "partner agree": [t("globe", "--yes"), t("globe", "--refuse")],
    "dataset list": [t()],
    "dataset delete": [t("{dataset}", "--yes"), t("crm", "--yes")],
    "dataset drop-field": [
        t("{dataset}", "amount", "--yes"),
        t("crm", "email", "--yes"),
        Try(("zebhealth", "{score}", "--yes"), compare=False),
    ],
    "partner show": [t("globe")],
    "partner accept": [t("globe")],
    "partner decline": [t("globe")],
    "partner allow": [t("globe", "--yes")],
    "partner preflight": [t("globe")],
    "partner rotate": [t("globe", "--yes")],
    "partner disconnect": [t("globe", "--yes")],
    "feed create": [
        t("new", "--segment", "{segment}", "--namespace", "email_sha256", "--partner", "globe"),
        t("new", "--segment", "first", "--namespace", "email_sha256", "--partner", "globe"),
        taken("{feed}", "--segment", "open", "--namespace", "email_sha256"),
    ],
    "feed list": [t()],
    "feed show": [t("{feed}"), t("{draft}"), t("{narrowed}"), t("{received}"), t("{offer}")],
    "feed publish": [t("{draft}"), t("{feed}")],
    "feed edit": [
        t("{feed}", "--description", "Other"),
        t("summer", "--add-segment", "{segment}"),
        t("summer", "--add-segment", "first"),
        t("summer", "--remove-segment", "{segment}"),
    ],
    "feed estimate": [t("{feed}"), t("{narrowed}", "--no-wait"), t("{feed}", "--no-wait")],
    "feed reconcile": [t("{feed}"), t("{narrowed}"), t("{received}")],
    "feed sync": [t(), t("--no-wait"), t("{feed}"), t("{narrowed}")],
    "feed unshare": [t("{feed}", "--partner", "globe", "--yes"), t("summer", "--segment", "{segment}", "--yes")],
    "feed revoke": [t("{feed}", "--yes"), t("{draft}", "--yes")],
    "feed delete": [t("{feed}", "--yes"), t("{draft}", "--yes"), t("{offer}", "--yes"), t("{received}", "--yes")],
    "feed enable": [
        t("{offer}"),
        t("{offer}", "--version", "{hash}"),
        t("{received}"),
        t("{offer}", "--partner", "globe"),
    ],
    "feed disable": [t("{received}")],
    "feed decline": [t("{offer}", "--yes"), t("{received}", "--yes"), t("{received}", "--addition", "--yes")],
    "audit list": [t(), t("--act", "feed.publish")],
    "audit export": [t("--output", "audit.csv")],
    "audit prune": [t("--before", "2020-01-01", "--yes")],
    "audit verify": [t()],
    "job list": [t(), t("--state", "failed")],
    "job show": [t("{job}")],
    "alert list": [t(), t("--all")],
    "alert acknowledge": [t("{alert}"), t("--all")],
    "user create": [t("eve", "--role", "viewer")],
    "user list": [t()],
    "user show": [t(), t("ann")],
    "user grant": [t("lou", "viewer")],
    "user deny": [t("ann", "administrator")],
    "user token": [t("ann")],
    "user revoke": [t("ann", "--yes")],
    "user remove": [t("ann", "--yes")],
    "user reset": "it takes no token, but the files of the home",
    "role create": [t("more", "--permission", "view")],
    "role list": [t()],
    "role delete": [t("limited", "--yes")],
}


def commands(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield every command of the tree by its words."""
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


def prepare(pair: Pair, person: type[Person]) -> Token:
    """Fill acme with what is hidden and what is not, run feeds both ways, and return the token of lou, who may see C5 alone."""
    acme, globe = pair.acme.project, pair.globe.project
    ids = [f"a{n}" for n in PEOPLE]
    pair.prepare(
        [person(each, f"p{n}@x.com") for n, each in enumerate(ids)],
        [person(f"g{n}", f"p{n}@x.com") for n in range(250)],
        {"open": ids[:210], "first": ids[:95], "read": ids[:20], "zebsecret": [ids[n] for n in SECRET]},
    )
    folder = pair.acme.folder
    scores = [f"{each},{9 if n in SCORED else 1},p{n}@x.com" for n, each in enumerate(ids)]
    (folder / "zebhealth.csv").write_text("\n".join(["id,zebscore,zebmail", *scores]) + "\n")
    acme.profiles.import_(
        folder / "zebhealth.csv",
        dataset="zebhealth",
        id_column="id",
        identities=[IdentityColumn.parse("zebmail=email_sha256:raw")],
        attributes=["zebscore"],
    )
    (folder / "orders.csv").write_text("\n".join(["id,amount", *(f"{each},9" for each in ids)]) + "\n")
    acme.profiles.import_(folder / "orders.csv", dataset="orders", id_column="id", identities=[], attributes=["amount"])
    for name, rule in {
        "many": "amount > 5",
        "zebscored": "zebscore > 5",
        "zebread": "own.read OR own.zebsecret",
    }.items():
        acme.segments.create(name, rule=rule)
    for label, kind, target in (
        ("C5", "segment", "first"),
        ("S1", "segment", "zebsecret"),
        ("C3", "dataset", "zebhealth"),
    ):
        acme.labels.apply(label, kind, target)
    pair.globe.segment("theirs", [f"g{n}" for n in THEIRS])
    pair.globe.segment("zebtheirs", [f"g{n}" for n in HIDDEN_THEIRS])
    globe.labels.apply("S1", "segment", "zebtheirs")
    _share(pair)
    acme.segments.create("zebcopied", rule="received.globe.zebtheirs")
    policies = acme.consent_policies
    policies.create("zebonly", "own.zebsecret", label="C5", enable=True)
    policies.create("zebfiles", "zebscore > 5", action="analytics", enable=True)
    policies.create("zeboff", "zebscore > 5 OR own.zebcopied", action="email-targeting")
    policies.create("plain", "amount > 5", action="analytics")
    acme.policies.create("custom", "analytics", "S2")
    node = pair.acme.node
    ann = node.users.create("ann", ["administrator"])
    with signed_in(node, ann) as anns:
        every = [each for each in Permission if each not in (Permission.ADMINISTER, Permission.AUDIT)]
        anns.roles.create("limited", every, labels=["C5"])
        return anns.users.create("lou", ["limited"])


def _share(pair: Pair) -> None:
    """Run a feed that is seen, and hidden ones, in both directions; leave a draft and an offer of each kind."""
    acme, globe = pair.acme.project, pair.globe.project
    ways = (
        (acme, globe, "globe", "acme", {"summer": ["open"], "zebfeed": ["open", "zebsecret"], "zebfirsts": ["first"]}),
        (globe, acme, "acme", "globe", {"back": ["theirs"], "zebback": ["zebtheirs"]}),
    )
    for sender, receiver, to, by, feeds in ways:
        for name, segments in feeds.items():
            sender.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=[to])
            sender.feeds.estimate(name)
            sender.feeds.publish(name)
            pair.post()
            receiver.received.enable(name, by)
            pair.post()
            sender.feeds.sync(name)
    for name, segment in (("draft", "many"), ("zebdraft", "zebscored")):
        acme.feeds.create(name, segments=[segment], namespaces=[EMAIL], partners=["globe"])
    for name, segment in (("offer", "theirs"), ("zeboffer", "zebtheirs")):
        globe.feeds.create(name, segments=[segment], namespaces=[EMAIL], partners=["acme"])
        globe.feeds.publish(name)
    pair.post()


class Crawler:
    """Runs commands as lou, each on a copy of a home."""

    def __init__(self, pair: Pair, token: Token, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.folder, self._now = pair.acme.node.home.path, folder, pair.acme.node.home.now
        self.run_as, self._patch = token.text, monkeypatch
        now = self._now

        def unsigned(context: Context) -> Node:
            if context._node is None:
                context._node = Node.open(context.home, now=now)
            return context._node

        monkeypatch.setattr(Context, "unsigned_node", unsigned)
        monkeypatch.setattr(client, "RETRY_SECONDS", 0.2)
        monkeypatch.setenv("VESICA_TOKEN", token.text)
        self.ids = dict[str, str]()

    def run(self, capture: pytest.CaptureFixture[str], *words: str, copy: bool = True) -> str:
        """Run a command; returns all that lou gets of it: what it prints, and the files that it writes."""
        place, home = self.folder / "work", self.folder / "copy" if copy else self.home
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if copy:
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(self.home, home)
        (place / "people.csv").write_text(
            "id,amount,share,zebmail\na1,7,y,p1@x.com\na2,8,y,p2@x.com\n".replace(HIDDEN, "")
        )
        given = {each.name for each in place.iterdir()}
        self._patch.chdir(place)
        capture.readouterr()
        code = main([*(self.ids.get(word, word) for word in words), "--home", str(home)])
        out, err = capture.readouterr()
        assert "Traceback" not in out + err
        files = sorted(each for each in place.rglob("*") if each.is_file() and each.name not in given)
        written = "".join(f"\n[{each.name}]\n{each.read_text()}" for each in files)
        return f"{code}\n{out}\n{err}{written}"


def leaks(text: str, typed: list[str]) -> list[str]:
    """Return what of the hidden is in a text, but for what was typed."""
    for word in {word for each in typed for word in re.findall(rf"[\w-]*{HIDDEN}[\w-]*", each)}:
        text = re.sub(rf"(?<![\w-]){word}(?![\w-])", "TYPED", text)
    return TELLTALE.findall(text)


def put_conflict(node: Node) -> None:
    """Put a label on a hidden field whose identities a feed carries: its next run is refused."""
    with node.home.guard.itself():
        put_unasked(node.project(), "C11", "dataset", "zebhealth")
