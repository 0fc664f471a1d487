"""Who broke the protocol: we (a bug, or too early) or the partner (refuse, audit, end the exchange)."""

from psi.errors import Remedy, VesicaError


class LocalProtocolError(VesicaError):
    """We asked for something that the protocol does not allow; nothing was sent."""

    code = "local_protocol"


class NotReady(LocalProtocolError):
    """An earlier step is incomplete, so this message cannot exist yet."""

    code = "not_ready"


class NoSuchChunk(LocalProtocolError):
    """A step has fewer chunks than this one's number."""

    code = "no_such_chunk"


class InvalidConnectId(LocalProtocolError):
    """A Connect ID that was typed or pasted cannot be used."""

    code = "connect_id"


class RemoteProtocolError(VesicaError):
    """The partner sent what it may not send. `code` says what: HINTS lists the codes of this package.

    Without a `hint` the code's own hint and remedy are used. Programs may pass codes that a partner's refusal carried.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", remedy: Remedy | None = None) -> None:
        if not hint:
            hint, remedy = HINTS.get(code, ""), remedy or REMEDIES.get(code)
        super().__init__(message, hint=hint, remedy=remedy)
        self.code = code


class Malformed(RemoteProtocolError):
    """Bytes that are not a message of this protocol."""

    def __init__(self, message: str) -> None:
        super().__init__("malformed", message)


class ChunkChanged(RemoteProtocolError):
    """A chunk that we already have came again with other bytes: a probe, or a broken partner."""

    def __init__(self, step: str, chunk: int) -> None:
        super().__init__("chunk_changed", f"{step} chunk {chunk} came again with other bytes")


_RETRY = "run it again; if it repeats, the partner's software is broken or hostile"
_UPGRADE = "both sides must run the same version of Vesica"

HINTS = {
    "malformed": _UPGRADE,
    "version": _UPGRADE,
    "type": _UPGRADE,
    "too_large": _UPGRADE,
    "truncated": "the connection broke or was too slow: run it again",
    "session": _RETRY,
    "step": _RETRY,
    "direction": _RETRY,
    "chunk": _RETRY,
    "out_of_order": _RETRY,
    "chunk_changed": "nothing was accepted; ask the partner whether it was restored from a backup",
    "namespace": "compare the agreed namespaces on both sides",
    "points": _RETRY,
    "proof": "the partner used another key than it signed for; nothing was stored, ask it to explain",
    "tags": "the partner answered for more or other points than it was sent; nothing was answered",
    "key_changed": "the partner's key of this epoch differs from the one it signed before; nothing was stored",
    "commitment": "the partner's universe differs from the one it signed",
    "question": _RETRY,
    "answer": _RETRY,
    "revision": "the partner must send a data revision above the last one",
    "manifest": "compare the accepted feed version on both sides",
    "records": _RETRY,
    "receipt": "both sides count different things; compare the audit logs of both",
    "signature": "check that the partner's key is the one you accepted",
    "connect_id_proof": "ask the partner for its current Connect ID",
    "agreement": "terms changed meanwhile: send the request again",
    "epoch": _RETRY,
}

REMEDIES = {  # the acts of ours that go with some of the hints
    "namespace": Remedy("partner.show"),
    "manifest": Remedy("feed.show"),
    "receipt": Remedy("audit.list"),
}
