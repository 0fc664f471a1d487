"""Why a change did not arrive, by code, in words."""

from .changes import State

REASONS = {
    "consent": "the person has not agreed to be shared, or somebody with the same identity has not",
    "policy_consent": "a consent policy on one of the destination's uses leaves the person out",
    "label": "a label on the segment forbids one of the destination's uses",
    "restricted_use": "the partner whose segment it reads forbids one of the destination's uses",
    "audience": "the answer has no id of an audience where the calls say that it has one",
    "namespace": "the person's primary identity is none that the target knows",
    "partner_address": "the destination is at the address of a partner, and the segment reads what was received",
    "missing_mapping": "the person has nothing in an attribute that the destination asks for",
    "template": "the destination's template makes no JSON of it, or takes too long",
    "superseded": "it was no longer true before it arrived",
    "timeout": "the target did not answer in time",
    "connection": "the target could not be reached, or the connection broke",
    "tls": "the target's certificate is not valid for its address, or from an unknown authority",
    "address": "the address leads where this node may not call; private ones are a setting of the node",
    "redirect": "the target pointed to another address, which is not followed",
    "token": "the address that gives access tokens gave none",
    "gone": "the target said that it takes no more messages",
    "plugin": "the plug-in for this kind of destination does not work",
    "package": "a package that this kind of destination needs is not installed",
    "program": "the program cannot be run, or others can change it",
    "restored": "it came from a backup: look at where it sends, then resume it; with a program, an administrator does",
    "killed": "the program was ended by a signal",
    "output": "the program wrote more than it may",
    "acknowledgement": "the program ended without saying that it has written the changes",
    "rejected": "the target did not take all of the changes",
    "bucket": "the store has no bucket of that name",
    "login": "the database does not know the user or the password, or has no such database",
    "privilege": "the user may not make, read or change the table in the database",
    "columns": "the table has other columns or another key than it should, or its schema is missing",
    "data": "the target cannot hold one of the values",
    "full": "the target has no room left",
    "locked": "another program locked the target",
    "damaged": "the file is no SQLite database, or a damaged one",
    "folder": "the folder is missing, full, or may not be written to",
}
EXCLUDED = {
    State.CONSENT: "consent",
    State.POLICY_CONSENT: "policy_consent",
    State.LABEL: "label",
    State.RESTRICTED_USE: "restricted_use",
    State.MISSING_MAPPING: "missing_mapping",
    State.NAMESPACE: "namespace",
}


def reason(code: str) -> str:
    """Return a code in words."""
    if code.startswith("http_"):
        return f"the target answered with HTTP status {code.removeprefix('http_')}"
    if code.startswith("exit_"):
        return f"the program ended with status {code.removeprefix('exit_')}"
    return REASONS.get(code, "")
