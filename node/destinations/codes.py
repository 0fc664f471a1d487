"""Why a change did not arrive, by code, in words."""

from .changes import State

REASONS = {
    "consent": "the person has not agreed to be shared, or somebody with the same identity has not",
    "policy_consent": "a consent policy on one of the destination's uses leaves the person out",
    "label": "a label on the segment forbids one of the destination's uses",
    "restricted_use": "the partner whose segment it reads forbids one of the destination's uses",
    "partner_address": "the destination is at the address of a partner, and the segment reads what was received",
    "superseded": "it was no longer true before it arrived",
    "timeout": "the target did not answer in time",
    "connection": "the target could not be reached, or the connection broke",
    "tls": "the target's certificate is not valid for its address",
    "address": "the address leads where this node may not call",
    "redirect": "the target pointed to another address, which is not followed",
    "gone": "the target said that it takes no more messages",
    "folder": "the folder is missing, full, or may not be written to",
}
EXCLUDED = {
    State.CONSENT: "consent",
    State.POLICY_CONSENT: "policy_consent",
    State.LABEL: "label",
    State.RESTRICTED_USE: "restricted_use",
}


def reason(code: str) -> str:
    """Return a code in words."""
    if code.startswith("http_"):
        return f"the target answered with HTTP status {code.removeprefix('http_')}"
    return REASONS.get(code, "")
