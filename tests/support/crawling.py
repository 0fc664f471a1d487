"""A home where what is hidden from one user has telltale names and sizes, and every command with arguments to try there."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from sides import Pair

from cli.main import Context, cli, main
from node.access.users import Token
from node.node import Node
from node.transport import client

# Whatever is hidden has a name with this in it; "xyl" stands in the same place of a name that nothing has.
HIDDEN, ABSENT = "zeb", "xyl"
SECRET = range(60, 197)  # who is in the hidden list
SCORED = range(97, 210)  # who has a high score, which is a hidden field
OPEN, FIRST, PEOPLE = range(210), range(95), range(300)
THEIRS, HIDDEN_THEIRS = range(51), range(51, 94)  # what the partner shares
WHO = [f"zebwho{n}" for n in range(77)]  # people whom only a hidden dataset names
SAID_NO = range(59)  # of them
WITH_PHONE = range(83)  # of all others, by a hidden field of a dataset that is seen
STRANGE = {len(WHO), len(PEOPLE) + len(WHO), len(SAID_NO), len(WITH_PHONE)}

_SETS = [set(SECRET), set(SCORED), set(HIDDEN_THEIRS)]
COUNTS = STRANGE | {
    size
    for hidden in _SETS
    for other in (set(PEOPLE), set(OPEN), set(FIRST))
    for size in (len(hidden & other), len(other - hidden))
    if size not in (0, len(OPEN), len(FIRST), len(PEOPLE), len(THEIRS))
}
TELLTALE = re.compile(
    rf"\S*{HIDDEN}\S*|(?<![\w.:/-])(?:{'|'.join(map(str, sorted(COUNTS)))})(?![\w:/-]|\.\d)", re.IGNORECASE
)

SYNC = "ftp_dpm_20914_1700000000.sync"
MEMBER = {"ups": {"24": {"status": "realized", "lastQualificationTime": "2026-05-02T00:00:00Z"}}}

# What may stand in a command: what the user sees, and what is hidden.
NAMES: dict[str, tuple[str, ...]] = {
    "inner": ("amount", "zebnote"),
    "inner-condition": ("amount > 5", "zebnote = 'zebvalue'"),
    "person": ("a61", "zebwho0"),
    "identity": ("email_sha256=p61@x.com", "email_sha256=zebwho0@x.com"),
    "people": ("people.csv", "zebpeople.csv"),
    "export": ("export.json", "zebexport.json"),
    "sync": ("ftp_dpm_20914_1700000000.sync", "zebs/ftp_dpm_20914_1700000000.sync"),
    "names": ("names.json", "zebnames.json"),
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
    "destination": ("out", "zebout"),
    "off": ("plain", "zeboff"),
    "job": ("JOB", "zebjob"),  # replaced by ids
    "alert": ("ALERT", "zebalert"),
    "hash": ("HASH", "zebhash"),
    "score": ("amount", "zebscore"),
    "trait": ("buyers", "zebgold"),
    "trait-rule": ("TRAIT", "zebtrait"),  # replaced by a rule
    "audience-segment": ("shoppers", "zebrich"),
    "import": ("trait.buyers", "trait.zebgold"),
    "gone": ("gone", "zebgone"),
    "gone-identity": ("email_sha256=gone@x.com", "email_sha256=zebgone@x.com"),
}


@dataclass(frozen=True)
class Try:
    """Arguments of a command. `compare`: with a hidden name it says the same as with one that nothing has.

    `crawl_ends` says how it ends.
    """

    words: tuple[str, ...] = ()
    compare: bool = True

    def line(self, command: str) -> str:
        return " ".join([command, *self.words])

    def in_files(self) -> list[str]:
        """Return the hidden names that the files have which are given: they are typed, too."""
        return [NAMES["segment"][1]] if "{names}" in self.words else []

    def kinds(self) -> list[str]:
        return [kind for kind in NAMES if any(f"{{{kind}}}" in word for word in self.words)]

    def filled(self, *, hidden: bool = False, absent: bool = False) -> list[str]:
        """Return the arguments with the names that the user sees, hidden ones, or some that nothing has."""
        names = {kind: each[-1 if absent else hidden] for kind, each in NAMES.items()}
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
    "node shared-segments": [t("on"), t("off")],
    "node backup": [t("backup.tar")],
    "node mail": [t()],
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
    "profile show": [t("{person}"), t("a99")],
    "profile erase": [
        t("{person}", "--prove", "--yes"),
        t("--identity", "{identity}", "--yes"),
        t("--file", "{people}", "--yes"),
    ],
    "profile readmit": [t("{gone}"), t("--identity", "{gone-identity}")],
    "profile import": [
        t("{people}", "--dataset", "taken", "--id", "id", "--consent", "share", "--attribute", "amount"),
        t("{people}", "--dataset", "taken", "--id", "id", "--identity", "mail=email_sha256"),
        taken("people.csv", "--dataset", "{dataset}", "--id", "id", "--attribute", "amount"),
        taken("people.csv", "--dataset", "orders", "--id", "id", "--attribute", "{inner}"),
        taken("people.csv", "--dataset", "{dataset}", "--id", "id", "--identity", "zebmail=email_sha256"),
    ],
    "profile import-from segment-match": [
        t("{export}", "--dataset", "taken", "--id", "crm"),
        t("{export}", "--dataset", "taken", "--id", "crm", "--segments", "new.json"),
        taken("export.json", "--dataset", "{dataset}", "--id", "crm"),
        taken("export.json", "--dataset", "taken", "--id", "crm", "--segments", "{names}"),
        taken("export.json", "--dataset", "taken", "--id", "crm", "--segments", "{names}", "--into", "{segment}"),
    ],
    "profile import-from audience-manager": [
        t("{sync}", "--dataset", "taken", "--own-ids"),
        taken("{sync}", "--dataset", "taken", "--own-ids", "--segments", "{names}"),
        taken("{sync}", "--dataset", "taken", "--own-ids", "--segments", "{names}", "--into", "{segment}"),
    ],
    "consent import": [
        t("{people}", "--id", "id", "--consent", "share"),
        t("{people}", "--id", "id", "--consent", "share", "--namespace", "email_sha256"),
    ],
    "consent model": [t("opt-in", "--dry-run"), t("opt-in")],
    "consent set": [t("{person}", "n"), t("{person}", "y", "--namespace", "email_sha256")],
    "consent show": [t(), t("{person}"), t("a99"), t("a290")],
    "consent policy create": [
        t("new", "--then", "{condition}"),
        t("new", "--then", "{inner-condition}"),
        t("new", "--then", "amount > 5", "--if", "{reference}", "--enable"),
        t("new", "--then", "{theirs}", "--action", "analytics"),
        taken("{policy}", "--then", "amount > 5"),
    ],
    "consent policy preview": [
        t("{segment}", "--then", "amount > 5"),
        t("open", "--then", "{condition}"),
        t("lacking", "--then", "amount IS NULL"),
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
        t("C5", "--field", "orders.{inner}"),
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
    "policy disable": [t("restrict-data-sharing", "--yes")],
    "policy edit": [t("custom", "--when", "S1 OR C3")],
    "policy delete": [t("custom", "--yes")],
    "segment create": [
        t("new", "--rule", "{condition}"),
        t("new", "--rule", "{inner-condition}"),
        t("new", "--rule", "amount IS NULL OR amount > 0"),
        t("new", "--rule", "{reference}"),
        t("new", "--rule", "{theirs}"),
        t("new", "--members", "{people}"),
        taken("{segment}", "--rule", "amount > 5"),
    ],
    "segment list": [t(), t("--shared")],
    "segment show": [
        t("lacking"),
        t("{segment}"),
        t("{rule-segment}"),
        t("{theirs}"),
        t("{rule-segment}", "--tree", "yaml"),
    ],
    "segment evaluate": [t(), t("{segment}"), t("{rule-segment}")],
    "segment update": [
        t("{rule-segment}", "--rule", "amount > 6"),
        t("many", "--rule", "{reference}"),
        t("many", "--rule", "amount IS NULL"),
        t("{segment}", "--members", "people.csv"),
        t("open", "--members", "{people}"),
    ],
    "segment export": [
        t("{segment}", "out.csv"),
        t("lacking", "out.csv", "--use", "email-targeting"),
        t("{segment}", "out.csv", "--use", "analytics"),
        t("{segment}", "out.csv", "--use", "email-targeting"),
        t("first", "out.csv", "--use", "data-science"),
        t("first", "out.csv", "--use", "data-science", "--attribute", "{score}", "--within", "{segment}"),
        t("{rule-segment}", "out.csv", "--use", "email-targeting"),
    ],
    "segment rename": [t("{segment}", "renamed")],
    "segment share": [t("{segment}", "--with", "other")],
    "segment unshare": [t("{segment}", "--with", "other", "--yes"), t("{segment}", "--yes")],
    "segment sharing": [t("{segment}"), t("first")],
    "audience source list": [t()],
    "audience source create": [t("Other")],
    "audience source control": [t("Site", "--add", "pii")],
    "audience folder list": [t()],
    "audience folder create": [t("Other")],
    "audience signal search": [t("segID"), t("event=zebvalue", "--unused")],
    "audience trait list": [t()],
    "audience trait show": [t("{trait}"), t("read")],
    "audience trait create": [
        t("new", "--source", "Site", "--rule", "a == 1"),
        taken("{trait}", "--source", "Site"),
    ],
    "audience trait edit": [t("{trait}", "--description", "Other")],
    "audience trait ttl": [t("{trait}", "5")],
    "audience trait delete": [t("{trait}", "--yes"), t("read", "--yes")],
    "audience segment list": [t()],
    "audience segment show": [t("{audience-segment}")],
    "audience segment create": [
        Try(("new", "--source", "Site", "--rule", "{trait-rule}"), compare=False),  # the error has the number alone
        taken("{audience-segment}", "--source", "Site", "--rule", "TRAIT"),
    ],
    "audience segment edit": [t("{audience-segment}", "--name", "renamed")],
    "audience segment delete": [t("{audience-segment}", "--yes")],
    "audience load": [t("ftp_dpm_2000000_1366545717.sync")],
    "audience segment map": [t("{audience-segment}", "out")],
    "audience segment unmap": [t("{audience-segment}", "out")],
    "audience import": [t("--trait", "{trait}", "--yes"), t("--segment", "{audience-segment}", "--yes")],
    "audience imports": [t()],
    "audience remove-import": [t("{import}", "--yes")],
    "audience sharing on": [t()],
    "audience sharing off": [t()],
    "audience reconcile": [t("{segment}")],
    "destination kinds": [t()],
    "destination create": [
        t("new", "--kind", "file", "folder=."),
        taken("{destination}", "--kind", "file", "folder=."),
    ],
    "destination connect": [t("{destination}", "target=https://x.example/", "--secret", "people.csv")],
    "destination check": [t("{destination}")],
    "destination rotate": [t("{destination}")],
    "destination edit": [t("{destination}", "--brake", "80")],
    "destination activate": [
        t("{destination}", "--segment", "first"),
        t("out", "--segment", "{segment}"),
    ],
    "destination deactivate": [t("{destination}", "--segment", "open"), t("out", "--segment", "{segment}")],
    "destination pause": [t("{destination}")],
    "destination resume": [t("{destination}")],
    "destination preview": [t("{destination}", "--segment", "first"), t("out", "--segment", "{segment}")],
    "destination replay": [t("{destination}")],
    "destination sync": [t("{destination}")],
    "destination delete": [t("{destination}", "--yes")],
    "destination list": [t()],
    "destination show": [t("{destination}")],
    "destination runs": [t("{destination}")],
    "destination errors": [t("{destination}")],
    "destination dead": [t("{destination}")],
    "destination alerts": [t("{destination}", "--on", "delay")],
    "segment delete": [t("{segment}", "--yes"), t("first", "--yes"), t("{rule-segment}", "--yes"), t("read", "--yes")],
    "partner id": [t()],
    "partner request": [t("CONNECT-ID", "--yes")],
    "partner list": [t()],
    "partner terms": [t("globe")],
    "partner agree": [t("globe", "--yes"), t("globe", "--decline")],
    "dataset list": [t()],
    "dataset delete": [t("{dataset}", "--yes"), t("crm", "--yes"), t("spare", "--yes")],
    "dataset drop-field": [
        t("orders", "{inner}", "--yes"),
        t("spare", "amount2", "--yes"),
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
        t("summer", "--remove-segment", "{segment}", "--yes"),
    ],
    "feed estimate": [t("{feed}", "--yes"), t("{narrowed}", "--no-wait", "--yes"), t("{feed}", "--no-wait", "--yes")],
    "feed reconcile": [t("{feed}"), t("{narrowed}"), t("{received}")],
    "feed sync": [t(), t("--no-wait"), t("{feed}"), t("{narrowed}")],
    "feed unshare": [t("{feed}", "--partner", "globe", "--yes"), t("summer", "--segment", "{segment}", "--yes")],
    "feed revoke": [t("{feed}", "--yes"), t("{draft}", "--yes")],
    "feed delete": [t("{feed}", "--yes"), t("{draft}", "--yes"), t("{offer}", "--yes"), t("{received}", "--yes")],
    "feed enable": [
        t("{offer}", "--version", "{hash}"),
        t("{received}"),
        t("{offer}", "--version", "{hash}", "--partner", "globe"),
    ],
    "feed disable": [t("{received}")],
    "feed decline": [t("{offer}", "--yes"), t("{received}", "--yes"), t("{received}", "--addition", "--yes")],
    "audit list": [t(), t("--act", "feed.publish")],
    "audit export": [t(), t("audit.csv")],
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
        given = set(_write_files(place))
        self._patch.chdir(place)
        capture.readouterr()
        code = main([*(self.ids.get(word, word) for word in words), "--home", str(home)])
        out, err = capture.readouterr()
        assert "Traceback" not in out + err
        files = sorted(each for each in place.rglob("*") if each.is_file() and each not in given)
        written = "".join(f"\n[{each.name}]\n{each.read_text()}" for each in files)
        return f"{code}\n{out}\n{err}{written}"


def _write_files(place: Path) -> Iterator[Path]:
    """Write what commands read: files of people and segments that are seen, hidden, and that nothing has; yield their paths."""
    for kind in ("", HIDDEN, ABSENT):
        ids = [f"{kind}who{n}" if kind else f"a{n + 1}" for n in range(2)]
        segment = NAMES["segment"][bool(kind)].replace(HIDDEN, kind)
        rows = (f"{each},7,y,{each}@x.com,{each}@x.com,7" for each in ids)
        records = ({"crm": each, "consents": {"share": {"val": "y"}}, "segmentMembership": MEMBER} for each in ids)
        for name, text in {
            "ftp_dpm_2000000_1366545717.sync": "card-1\td_sid=1",
            f"{kind}people.csv": "\n".join(["id,amount,share,mail,zebmail,zebnote", *rows]),
            f"{kind}export.json": "\n".join(map(json.dumps, records)),
            f"{kind}s/{SYNC}" if kind else SYNC: "".join(f"{each}\td_sid=24,d_sid=26\n" for each in ids),
            f"{kind}names.json": json.dumps({"24": segment, "26": "other"}),
            f"{kind}new.json": json.dumps({"24": "new", "26": "other"}),
        }.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text + "\n")
            yield place / name


def leaks(text: str, typed: list[str]) -> list[str]:
    """Return what of the hidden is in a text, but for what was typed."""
    for word in {word for each in typed for word in re.findall(rf"[\w-]*{HIDDEN}[\w-]*", each)}:
        text = re.sub(rf"(?<![\w-]){word}(?![\w-])", "TYPED", text)
    return TELLTALE.findall(text)
