"""The bytes on the wire, pinned. VESICA_WRITE_VECTORS=1 writes the files again: then the version must change too."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from parties import Party, World, drive

from protocol import handshake
from protocol.agreement import Agreement, Offer, Terms
from protocol.connectid import ConnectId
from protocol.exchange import session
from protocol.letters import FeedVersion, Letter
from protocol.states import PARTS, Kind

VECTORS = Path(__file__).parents[1] / "vectors"
WHOLE = 4096  # longer bodies are pinned by their hash


def pinned(name: str, content: object) -> None:
    """Compare with the file `name`, the way another implementation would."""
    path = VECTORS / name
    if os.environ.get("VESICA_WRITE_VECTORS"):
        path.write_text(json.dumps(content, indent=1) + "\n")
    assert json.loads(path.read_text()) == content


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", list(Kind))
def test_transcripts(world: World, kind: Kind) -> None:
    client = PARTS[kind][0]
    opening, opened = world.opening(kind, client), world.opened()
    client_machine, server_machine = (
        world.machine(kind, world.role(part, kind), {}, client=client) for part in (client, PARTS[kind][1])
    )
    bodies = [
        {"step": step, "chunk": chunk, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        | ({"body": body.hex()} if len(body) <= WHOLE else {})
        for step, chunk, body, _ in drive(client_machine, server_machine)
    ]
    pinned(
        f"wire_{kind}.json",
        {
            "origin": "made by this package with the seeded keys of tests/support/parties.py and small chunks",
            "opening": opening.encode().hex(),
            "opened": opened.encode().hex(),
            "session": session(opening, opened).hex(),
            "bodies": bodies,
        },
    )


def test_handshake(world: World) -> None:
    left, right = world.left, world.right
    connect_id = ConnectId(
        flags=0,
        address="b.example:7443",
        key=right.key,
        project=bytes(range(16)),
        secret=bytes(range(16, 32)),
        expires=1_800_000_000,
    )
    hello = handshake.hello(connect_id, key=left.key, nonce=bytes(range(32)))
    secret = {"secret": connect_id.secret}

    def offer(party: Party, name: str, nonce: bytes) -> Offer:
        return Offer(
            organisation=name,
            project_name="default",
            key=party.key,
            project=connect_id.project,
            address=f"{name}.example:7443",
            proxy=False,
            terms=Terms(),
            namespaces=("email_sha256/lc-v1",),
            nonce=nonce,
        )

    ours = offer(left, "a", bytes(32))
    theirs = offer(right, "b", handshake.offer_nonce(hello, **secret))
    where = {"connection": bytes(range(16))}
    request = handshake.request(connect_id, hello, ours, theirs, **where, made=1_790_000_000, sign=left.sign)
    agreement = handshake.check_request(request, theirs, **secret)
    accept = handshake.accept(agreement, sign=right.sign)
    messages = {
        "hello": hello,
        "reply": handshake.reply(hello, theirs, **secret),
        "request": request,
        "agreement": Agreement.merge(ours, theirs, connection=bytes(range(16)), made=1_790_000_000),
        "accept": Letter.of("connect.accept", accept, connection=bytes(range(16)), number=1),
        "publish": Letter.of(
            "feed.publish", FeedVersion(definition=world.definition), connection=bytes(range(16)), number=2
        ),
    }
    pinned(
        "wire_handshake.json",
        {
            "origin": "made by this package; Ed25519 seeds are SHA-256 of 'left' (requester) and 'right' (accepter)",
            "connect_id": connect_id.encode(),
            "keys": {"requester": left.key.hex(), "accepter": right.key.hex()},
            "messages": {
                name: {"encoded": message.encode().hex(), "digest": message.digest().hex()}
                for name, message in messages.items()
            },
        },
    )
