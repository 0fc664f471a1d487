"""Write docs/errors.md: every error code of the code itself, what it means, and what to do.

    python tests/scripts/errors.py            writes the page
    python tests/scripts/errors.py --check    says with its exit code whether the page is up to date

The codes are read out of the source. What one means stands in the docstring of its class, else here; what to do in the
protocol's own hints, else here.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cli import remedies
from protocol.errors import HINTS, REMEDIES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
BLAMES, REFUSES = "RemoteProtocolError", "RefusedToPartner"
PASSED_ON = {  # of psi/: the protocol blames the partner with the same code
    "duplicate_point",
    "invalid_point",
    "invalid_proof",
    "invalid_scalar",
    "invalid_tags",
    "wrong_count",
}

# Codes that no class has for itself.
MEANS = {
    # of the command line, jobs and exchanges
    "abandoned": "an exchange that nobody went on with for long; its messages are deleted",
    "erased": "an exchange that was given up, since people whom it may have were erased",
    "error": "an error that has no word of its own",
    "disconnected": "the connection ended while an exchange was open",
    "failed": "the machine could not do it: a file cannot be read or written, a job of another release is queued",
    "given_up": "an exchange that was given up, since its release is out of date",
    "internal": "a fault in this software; its text is not shown, since it could hold data",
    "interrupted": "Ctrl-C, or the question before the act was not answered",
    "replaced": "an exchange in whose place a newer one was opened",
    "restored": "a job or exchange that was open when the backup was made",
    "usage": "the command line was not understood; exit code 2",
    # what a partner is told
    "another_key": "a universe was asked about under two keys, which would tell more than the budget allows",
    "below_minimum": "the answering side has fewer identities than both agreed on as the least",
    "budget": "the budget for estimates is spent, or its sender was caught lying",
    "differencing": "a segment differs from one asked before by so few that the difference would tell of persons",
    "epoch_behind": "the key epoch of the other side is ahead; the caller follows by itself",
    "evaluations_spent": "the receiver asked about as many people as the agreement allows in a window",
    "expired": "the Connect ID of an ad hoc match is older than an hour",
    "in_use": "the Connect ID of an ad hoc match was used: it is good for one answer",
    "no_base": "changes came that build on a revision which the receiver does not have; a full one follows by itself",
    "no_feed": "no enabled feed between both fits the request, or it has no such revision",
    "not_allowed": "the listener of an ad hoc match allows a count only",
    "not_enabled": "the feed, or this version of it, is not enabled by the receiver",
    "key_retired": "the caller's key was replaced by its own node: somebody has a copy, or the caller runs from an old backup",
    "nothing_common": "the files of an ad hoc match have no namespace in common",
    "nothing_wanted": "the side that is called did not ask for an estimate",
    "on_hold": "a project that was restored from a backup shares nothing until a person has looked at it",
    "one_answer": "an ad hoc match is over after one answer",
    "over": "the exchange has ended",
    "part": "in an ad hoc match the one who dials asks, and the one who listens answers",
    "stale": "the revision is out of date; a newer one is being made",
    "subject": "an ad hoc match is about one feed, version and revision",
    "too_few": "a file of an ad hoc match, or what was asked, is below the agreed minimum",
    "too_many": "too many requests to connect, exchanges, letters or new keys; too many identities for the other file",
    "too_soon": "the partner was told of a restore less than an hour ago",
    "universe_lost": "the universe of this key epoch is gone, so questions cannot be compared with those before",
    "universe_too_soon": "the answering side would show a second universe within a day, or has shown all of a window",
    # what breaks the protocol
    "agreement": "an offer, request or acceptance is about other terms, or another node, than the one before",
    "answer": "an estimate's answer is about another number of segments than was asked",
    "chunk": "a chunk with a number that does not follow, or not as many chunks as announced",
    "chunk_changed": "a chunk came again with other bytes",
    "commitment": "a universe is not the one that its owner committed to, or is larger than agreed",
    "connect_id_proof": "the Connect ID is not, or no longer, valid",
    "direction": "a message went the wrong way",
    "epoch": "the partner names another key epoch than the one that both are in",
    "key_changed": "the sender used two keys in one key epoch",
    "malformed": "bytes that are no message of this protocol",
    "manifest": "a release, word or version is about a feed or version that is not there",
    "namespace": "a namespace that was not agreed on",
    "out_of_order": "a message or letter came before, or after, its time",
    "points": "points of a batch are repeated or not in order",
    "proof": "the sender's key is for another connection, namespace or key epoch",
    "question": "an estimate's question is too large, or its parts do not fit",
    "receipt": "a receipt says other things than were sent, or does not follow the last one",
    "records": "the records are not those that the manifest announced",
    "revision": "a revision that is not above the last one",
    "session": "a message or letter of another session or connection",
    "signature": "a signature is wrong, or the statement is about another connection",
    "step": "a step that this kind of exchange does not have, or not now",
    "tags": "tags for more, or other, points than were sent",
    "truncated": "a request's body did not arrive whole",
    "type": "a message or letter of another kind than expected",
    "version": "another version of the protocol, or of a feed, than this side has",
}

DO = {  # where the protocol gives no hint
    "abandoned": "nothing: the work is done again when it is asked for",
    "address_not_allowed": "ask the partner for an address that others can reach; in a network of your own allow private ones",
    "already_exists": "use the one that is there, or choose another name",
    "another_key": "ask again when the partner has a new universe",
    "audit_broken": "compare the log with an earlier export or backup, and find out who could write to the database",
    "backup_incomplete": "copy the backup again, or use another",
    "bad_signature": "compare the clocks of both machines, and check that the address leads to the partner's node",
    "below_minimum": "import more people, or agree on a lower minimum: `vesica partner agree`",
    "budget": "ask about fewer segments, or wait until what was spent comes back",
    "connect_id": "copy it again as a whole, or ask the partner for its current one",
    "differencing": "the estimate from before still counts; ask again when the segment has changed more",
    "disconnected": "connect again with a new Connect ID",
    "disk_full": "make room, then run the command again: nothing is left half done",
    "duplicate_point": "ask the partner which software it runs, and keep the audit record",
    "epoch_behind": "nothing: it is done again by itself",
    "epoch_too_soon": "wait: runs go on by themselves a day after the last epoch began",
    "error": "read its message",
    "evaluations_spent": "the sender may allow as many once more: `vesica partner allow`",
    "expired": "ask for a new one: `vesica match listen`",
    "export_control": "leave the trait out, take the control off its data source, or use a destination that is not for this",
    "failed": "read its message: it names the file or job",
    "erased": "nothing: what is still wanted begins again by itself",
    "erased_meanwhile": "run it again; feeds run again by themselves",
    "given_up": "nothing: the next run makes a new revision",
    "in_use": "ask for a new one: `vesica match listen`",
    "internal": "run it again with VESICA_TRACEBACK=1, which shows where; at a partner its operator finds it in the log",
    "interrupted": "run the command again: it goes on or starts cleanly",
    "invalid_input": "read its message: it names the value, and the hint says what is understood",
    "invalid_name": "use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
    "invalid_point": "ask the partner which software it runs, and keep the audit record",
    "invalid_proof": "nothing was stored; ask the partner to explain, and keep the audit record",
    "invalid_scalar": "report it: a correct node never makes one",
    "invalid_tags": "ask the partner which software it runs, and keep the audit record",
    "invalid_token": "ask an administrator for a new token: `vesica user token`",
    "key_retired": "restore a newer backup, or replace the key and connect again; nobody else may have the old key",
    "kind_unusable": "install the package that its message names, then `vesica destination resume`",
    "legacy_sharing_on": "have the connection take over: `vesica audience sharing off --hand-over NAME`; or delete it first",
    "local_protocol": "read its message",
    "no_base": "nothing: the sender sends a full revision",
    "no_caller": "report it: it is a fault in this software",
    "no_feed": "the sender publishes a feed and the receiver enables it",
    "no_home": "name another home with `--home`, or make a node: `vesica node init`",
    "not_allowed": "run with `--count`, or ask for a listener with `--allow members`",
    "not_enabled": "the receiver enables it",
    "not_found": "the hint names the command that lists what there is",
    "no_such_chunk": "ask for chunks that the step has; nothing was made",
    "not_ready": "do the step before first; nothing was sent",
    "nothing_common": "give both the same one: `--column COLUMN=NAMESPACE`",
    "nothing_wanted": "the side that is called asks for it first",
    "on_hold": "its operator imports consent again, ends what has ended since, then: `vesica project resume`",
    "one_answer": "ask for a new Connect ID: `vesica match listen`",
    "over": "nothing: it is opened again when the work is done again",
    "part": "dial, and let the other side listen",
    "permission_denied": "ask an administrator for a role that has the permission: `vesica role list`",
    "policy_conflict": "the report names each policy, where its labels come from, and what would lift it",
    "policy_violation": "the report names each policy, where its labels come from, and what would lift it",
    "refused": "the message names the rule, and the hint what would be allowed",
    "replaced": "nothing: the newer one goes on",
    "restored": "ask for the work again",
    "shared_segments_off": "an administrator can switch it on: `vesica node shared-segments on`",
    "stale": "nothing: it comes by itself, or at once",
    "store_busy": "run the command again; if it repeats, look which process is at work",
    "store_unavailable": "check that the database runs, its address, and the rights of its files",
    "subject": "ask for a new Connect ID: `vesica match listen`",
    "token_needed": "put your token into VESICA_TOKEN; who has lost theirs: `vesica user reset`",
    "too_few": "lower the minimum on both sides: `--minimum`",
    "too_many": "try again later, or match a smaller file",
    "too_soon": "nothing: it is sent again in an hour",
    "unacceptable": "read its hint; docs/audience-manager.md has the requests that programs may send",
    "universe_lost": "ask again in a day",
    "universe_too_soon": "ask again on the day that the hint names",
    "unknown_kernel": "set VESICA_KERNEL to one that the hint names, or not at all",
    "unreachable": "check that its service runs and can be reached from here; what waits goes later by itself",
    "unwelcome": "the connection ended or never was: connect with a new Connect ID",
    "usage": "`--help` after the command shows how",
    "used_elsewhere": "see where the segment is used, `vesica segment sharing NAME`, and say --yes if that is meant",
    "wrong_count": "ask the partner which software it runs, and keep the audit record",
    "wrong_key": "ask the partner, by a way that you trust, whether its node has another key; if so connect again",
    "wrong_passphrase": "set VESICA_PASSPHRASE to the one with which the home was made",
}

HEAD = """\
# Error codes

Made by `tests/scripts/errors.py` from the code. An error has a code for programs, a message for people, and a hint:
what to do next, often a command. With `--json` a command prints `{"error": {"code", "message", "hint"}}`; the exit code
is 1, or 2 for a mistake in the command line. The code of a job or a run that failed is in its row. What a partner
answers has the same form; its words are shown without anything that could steer a terminal.
"""

SECTIONS = (
    ("Your own node", "Found here: nothing was asked of a partner, or the partner could not be asked."),
    ("What a partner refuses", "Told to the partner as they are here, so these hold nothing of the node that refuses."),
    (
        "What breaks the protocol",
        "A correct partner never sends it. The exchange ends, nothing of it is stored, and an audit row stays.",
    ),
)


@dataclass(slots=True)
class Found:
    """Where the code uses an error code."""

    docstrings: list[str] = field(default_factory=list)  # of the classes that have it
    refuses: bool = False
    blames: bool = False


def codes(root: Path = ROOT) -> dict[str, Found]:
    """Return every error code that the source of the product writes out."""
    found: dict[str, Found] = {}
    trees = [
        ast.parse(path.read_text())
        for package in ("psi", "protocol", "node", "cli")
        for path in sorted((root / package).rglob("*.py"))
    ]
    constants = dict(each for tree in trees for each in _constants(tree))
    for tree in trees:
        for node in ast.walk(tree):
            for code, name, docstring in _used(node, constants):
                entry = found.setdefault(code, Found())
                entry.docstrings += [docstring] if docstring else []
                entry.refuses |= name == REFUSES
                entry.blames |= name == BLAMES
    return found


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(str(text))):
                yield name, text


def _used(node: ast.AST, constants: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the code that a part of the source uses, who uses it, and the docstring of the class that has it."""
    match node:
        case ast.ClassDef(body=body):
            for each in body:
                match each:
                    case ast.Assign(targets=[ast.Name("code")], value=ast.Constant(str(code))):
                        yield code, "", ast.get_docstring(node) or ""
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=[first, _, *_]) if name in (REFUSES, BLAMES):
            yield from ((code, name, "") for code in _written(first, constants))
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name("super")), attr="__init__"),
            args=[ast.Constant(str(code)), _, *_],
        ):
            yield code, BLAMES, ""
        case ast.Call(func=ast.Name("_fail"), args=[_, ast.Constant(str(code)), *_]):
            yield code, "", ""
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                match key, value:
                    case ast.Constant("code"), ast.Constant(str(code)):
                        yield code, "", ""


def _written(first: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    match first:
        case ast.Constant(str(code)):
            yield code
        case ast.Name(name) if name in constants:
            yield constants[name]


def means(code: str, found: Found) -> str:
    """Return what a code means, as a phrase that ends without a full stop; "" if nothing says so."""
    if code in MEANS:
        return MEANS[code]
    first = next((each.partition("\n\n")[0].partition(": `")[0] for each in found.docstrings), "")
    text = " ".join(first.split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def to_do(code: str) -> str:
    """Return what to do about a code; "" if nothing says so."""
    remedy = REMEDIES.get(code)
    command = f"`{remedies.spelled(remedy)}`" if remedy else ""
    return ": ".join(part for part in (HINTS.get(code) or DO.get(code, ""), command) if part)


def page() -> str:
    """Return the whole page."""
    found = codes()
    tables: list[list[str]] = [[], [], []]
    for code in sorted(found):
        place = 2 if code in HINTS or code in PASSED_ON or found[code].blames else 1 if found[code].refuses else 0
        tables[place].append(f"| `{code}` | {means(code, found[code])} | {to_do(code)} |")
    parts = [HEAD]
    for (title, said), rows in zip(SECTIONS, tables, strict=True):
        parts.append(
            "\n".join([f"## {title}\n\n{said}\n", "| code | means | what to do |", "| --- | --- | --- |", *rows, ""])
        )
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is up to date."""
    wanted = page()
    if arguments == ["--check"]:
        current = PAGE.exists() and PAGE.read_text() == wanted
        if not current:
            print("docs/errors.md is out of date: python tests/scripts/errors.py")
        return 0 if current else 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
