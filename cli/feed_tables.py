"""How feeds are printed for people: lists, estimates, runs, and one feed whole."""

from typing import Any

from . import output, remedies

EVERYBODY = (  # said before the first estimate of a feed
    "This asks about everybody in the feed's segments, those who said no too: they count in common, not with consent. "
    "'vesica project terms --hide-unconsented' leaves out all without consent, '--hide-opted-out' those who said no."
)


_NUMBERS = (("overlap", "interval"), ("consented", "consented_interval"))


def failures(failed: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Print what kept each of several tasks from its end."""
    for task, row in failed.items():
        said = f"{' '.join(task)}: {row['error']['message']}\nhint: {row['error']['hint']}"
        output.echo(said, err=True)


def queued(rows: list[dict[str, Any]]) -> None:
    output.table(("job", "partner"), ([row["job"], row["partner"]] for row in rows), empty="nothing to do", ids="job")
    if rows:
        sync, show = remedies.command("node.sync"), remedies.command("job.show")
        output.say(f"The service does it, or '{sync}'. '{show}' tells how far it is.")


def shared(row: dict[str, Any]) -> list[Any]:
    waits = {name: f", version {version} pending" for name, version in row["offered"].items() if version}
    fails = {name: f", last attempt failed: {code}" for name, code in row["failures"].items()}
    partners = [
        f"{name}: {status}{waits.get(name, '')}{fails.get(name, '')}" for name, status in row["partners"].items()
    ]
    return [row["name"], row["status"], row["version"], row["segments"], partners]


def received(row: dict[str, Any]) -> list[Any]:
    members = [f"{name}: {size:,}" for name, size in row["segments"].items()]
    return [row["partner"], row["name"], row["status"], row["accepted_version"], row["offered_version"], members]


def estimates(rows: list[dict[str, Any]]) -> None:
    columns = ("partner", "segment", "namespace", "in common", "with consent", "computed")
    output.table(
        columns,
        (
            [
                row["partner"],
                row["segment"],
                row["namespace"],
                _number(row["overlap"], row["interval"], row["status"]),
                _number(row["consented"], row["consented_interval"], row["status"]),
                output.time(row["computed_at"]),
            ]
            for row in rows
        ),
        empty="no estimate was made yet",
    )
    if rows:
        found = [each for row in rows for each in (row["interval"], row["consented_interval"]) if each]
        ranges = (
            " The true number is in its range in 95 of 100 cases." if any(low != high for low, high in found) else ""
        )
        output.say(f"A person who matches in two namespaces counts once in each.{ranges}")


def budgets(rows: list[dict[str, Any]]) -> None:
    for partner, budget in {row["partner"]: row["budget"] for row in rows if row["budget"]}.items():
        back = f"what is spent comes back after {budget['window_days']} days; your other projects spend from it too"
        output.say(f"Budget left with {partner}: {output.budget(budget)} ({back}).")


def _number(value: int | None, interval: list[int] | None, status: str) -> str:
    if value is None or interval is None:
        return output.words(status)
    return f"{value:,} ({interval[0]:,} to {interval[1]:,})" if interval[0] != interval[1] else f"{value:,}"


def show(document: dict[str, Any], *, asked: bool = False) -> None:
    """Print a feed; without the commands that answer an offer where its reader is `asked` for the answer."""
    until = "" if document["valid_until"] is None else f", at the latest {output.time(document['valid_until'])}"
    lines = [
        ("feed", document["name"]),
        ("status", document["status"]),
        ("version", document["version"]),
        ("version hash", document["hash"]),
        ("description", document["description"] or None),
        ("segments", [_labelled(each) for each in document["segments"]]),
        ("namespaces", document["namespaces"]),
        ("restricted uses", document["restricted_uses"]),
    ]
    if not _is_over(document):
        lines.append(("members leave", f"{document['membership_days']} days after a run{until}"))
    if "partner" in document:
        output.lines([*lines, *_receiving(document)])
        if document["offered"]:
            _offered(document["name"], document["offered"], asked=asked)
        if document["status"] == "pending" and not asked:
            output.echo(f"\nIt waits for an answer: {remedies.command('feed.enable', name=document['name'])}, or")
            output.echo(remedies.command("feed.decline", name=document["name"]))
    else:
        output.lines(lines)
        if document["status"] == "draft":
            output.echo()
            steps = [
                (each["name"], each["complete"], None if each["complete"] else each["command"])
                for each in document["steps"]
            ]
            output.table(("step", "done", "command"), steps)
        for row in document["partners"]:
            output.echo()
            output.lines(_sending(document, row))
            if row["waits_for_estimate"]:
                output.echo(f"{row['alias']}: {asking(document['name'], row['waits_for_estimate'])}")
        if document["partners"]:
            output.echo()
            estimates(document["estimates"])
    if document["runs"]:
        output.echo()
        _runs(document["runs"])


def _receiving(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what is to be said of a feed that we get; what there is not yet is left out."""
    lines = [
        ("from", document["partner"]),
        ("reason", document["reason"] or None),
        *(("members", _members(name, size, document)) for name, size in document["members"].items()),
        ("members", "purged" if _is_over(document) and document["last_run"] and not document["members"] else None),
        ("members until", None if _is_over(document) else output.time(document["members_until"])),
        ("last run", _last_run(document["last_run"])),
        ("last receipt", document["last_receipt"]),
    ]
    return [(name, value) for name, value in lines if value is not None]


def _is_over(document: dict[str, Any]) -> bool:
    """Return whether a feed that we get was revoked or declined: then it gives no members."""
    return "partner" in document and document["status"] in ("revoked", "declined")


def _sending(document: dict[str, Any], row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what is to be said of one partner of a feed of ours; what there is not yet is left out."""
    accepted = row["accepted_version"] and f"{row['accepted_version']}, hash {row['accepted_hash']}"
    lines = [
        ("partner", row["alias"]),
        ("status", row["status"]),
        ("reason", row["reason"] or None),
        ("budget left", row["budget"] and output.budget(row["budget"])),
        ("accepted version", accepted),
        ("lacks", [f"{output.words(noun)} {name}" for noun, name in _lacks(row)] or None),
        ("offered version", row["offered_version"]),
        ("declined", _declined(row)),
        ("to offer it", _offering(document, row)),
        ("last revision", row["last_revision"] or None),
        ("last run", _last_run(row["last_run"])),
        ("last receipt", row["last_receipt"]),
        ("failure", row["failure"]),
        ("next attempt", output.time(row["next_attempt"])),
        *(("purged", _purged(each)) for each in row["purges"]),
    ]
    return [(name, value) for name, value in lines if value is not None]


def _lacks(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the newest version would bring a partner: a noun and a name each."""
    return [
        (noun.removesuffix("s"), each["name"] if noun == "segments" else each)
        for noun, names in row["lacks"].items()
        for each in names
    ]


def _declined(row: dict[str, Any]) -> str | None:
    if row["declined_version"] is None:
        return None
    return f"version {row['declined_version']} declined, version {row['accepted_version']} goes on"


def _offering(document: dict[str, Any], row: dict[str, Any]) -> str | None:
    """Return the commands that offer a partner the newest version where nothing else waits."""
    if not _lacks(row) or row["offered_version"] or row["waits_for_estimate"]:
        return None
    publish = remedies.command("feed.publish", name=document["name"])
    if row["declined_version"] != document["version"]:
        return publish
    return f"{remedies.command('feed.edit', name=document['name'])} --description TEXT, then {publish}"


def _purged(statement: dict[str, Any]) -> str:
    what = "the whole feed" if statement["version"] is None else f"version {statement['version']}"
    return f"{what}, revision {statement['revision']}, signed {output.time(statement['made'])}"


def _runs(runs: list[dict[str, Any]]) -> None:
    names = ["revision", "version", "state", "at", "data changed", "latency"]
    rows = [
        [
            run["revision"],
            run["version"],
            run["state"],
            output.time(run["at"]),
            output.time(run.get("changed_at")),
            None if run["latency"] is None else output.span(run["latency"]),
        ]
        for run in runs
    ]
    if "partner" in runs[0]:  # of a feed of ours
        names, rows = ["partner", *names], [[run["partner"], *row] for run, row in zip(runs, rows, strict=True)]
    output.table(names, rows)


def _last_run(run: dict[str, Any] | None) -> str | None:
    """Return in words how old the last run is, and how long after a change of the data it came."""
    if run is None:
        return None
    age = f"{output.span(run['age'])} ago"
    if run["changed_at"] is None:
        return age
    return f"{age}, {output.span(run['latency'])} after the data changed"


def reconciled(document: dict[str, Any]) -> None:
    if document.get("partners") == []:
        output.echo("the feed goes to no partner")
    for each in document.get("partners", [document]):
        output.echo(
            f"{each['partner']}: {each['status']}, version {each['version']}, revision {each['revision'] or '-'}"
        )
        if each.get("forbidden"):
            output.echo(f"nothing may be sent: {each['forbidden']}")
        if not each.get("open", True):
            output.say(
                "the records of the last run cannot be opened any more, or none came: the next run shows what matches"
            )
        columns = ["namespace", *each["total"]]
        rows = [[row[column] for column in columns] for row in each["namespaces"]]
        total = ["all", *each["total"].values()]
        output.table([output.words(column) for column in columns], [*rows, total])
        if "profiles" in each:
            output.echo(f"{each['profiles']:,} profiles are in a segment of it")
        output.echo()


def asking(name: str, namespaces: list[str]) -> str:
    command = remedies.command("feed.estimate", name=name, namespaces=namespaces)
    return f"the newest version waits for an estimate of what it adds: {command}"


def _offered(name: str, offered: dict[str, Any], *, asked: bool) -> None:
    """Print what a version that waits for our word would change."""
    if asked:
        output.echo(f"\nVersion {offered['version']}")
    else:
        output.echo(
            f"\nVersion {offered['version']} waits for an answer: {remedies.command('feed.enable', name=name)}, or"
        )
        output.echo(remedies.command("feed.decline", name=name, addition=True))
    lines = [("version hash", offered["hash"]), ("description", offered["description"] or None)]
    for which, word in (("adds", "adds"), ("takes_out", "takes out")):
        changes = {**offered[which], "segments": [_labelled(each) for each in offered[which]["segments"]]}
        lines += [(f"{word} {output.words(noun)}", names) for noun, names in changes.items() if names]
    for row in offered["estimates"]:
        numbers = [_answered(each) for each in row["segments"]] or [row["status"]]
        lines.append((f"in common, {row['namespace']}", [*numbers, output.time(row["computed_at"])]))
    output.lines(lines)
    if offered["estimates"]:
        output.say(
            "Numbers are those that we last answered this partner; which segment is which its question did not say."
        )


def _answered(row: dict[str, Any]) -> str:
    if row["overlap"] is None:
        return output.words(row["status"])
    numbers = (_number(row[name], row[interval], row["status"]) for name, interval in _NUMBERS)
    return "{}, {} with consent, of {:,} asked about".format(*numbers, row["asked"])


def _members(segment: str, size: int, document: dict[str, Any]) -> str:
    from node.feeds.receiving.changes import EXITED_DAYS

    found = document["statuses"][segment]
    return f"{segment}: {size:,}; new {found['realized']:,}; left in {EXITED_DAYS} days {found['exited']:,}"


def _labelled(segment: dict[str, Any]) -> str:
    return f"{segment['name']} ({', '.join(segment['labels'])})" if segment["labels"] else str(segment["name"])
