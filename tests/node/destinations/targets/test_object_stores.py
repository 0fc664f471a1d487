"""An object store as a destination, against others' stores: moto's, and s3rver where it is there."""

import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from stores import Bucket
from targets import batch, prepared

from node.destinations.kinds import Delivered, Gone, Later, Message, Outcome, Refused
from node.destinations.targets import formats, object_stores
from node.destinations.targets.object_stores import OBJECT_STORE, ObjectStoreTarget
from node.errors import Failure, InvalidInput
from node.node import Node
from node.project import Project
from node.transport.addresses import AllowedAddresses

HERE = AllowedAddresses(loopback=True)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(moto: str) -> Iterator[Bucket]:
    found = Bucket(moto, "key", "secret")
    yield found
    found.empty()


@pytest.fixture
def project(loopback: Node, tmp_path: Path) -> Project:
    return prepared(loopback.project(), tmp_path, 8, s="orders >= 4")


def target(settings: dict[str, str], allowed: AllowedAddresses = HERE, key: str = "secret") -> ObjectStoreTarget:
    return ObjectStoreTarget(OBJECT_STORE.checked(settings), allowed, key)


def sent(to: ObjectStoreTarget, body: bytes = b"x\n", segment: str = "s") -> Outcome:
    return to.send(Message(id="msg_1", segment=segment, sequence=7, body=body, now=0))


def test_an_object_for_each_message_says_who_is_in_which_segment(project: Project, store: Bucket) -> None:
    project.destinations.create("s3", "objectstore", store.settings, uses=["analytics"], secret=b"secret\n")
    assert project.destinations.check("s3") == {"arrived": True, "code": None, "reason": None}
    assert store.objects() == []
    project.destinations.activate("s3", ["s"])
    project.consent.set("p5", "n")
    project.destinations.sync("s3")
    assert [key.partition("-")[0] for key in store.objects()] == ["crm/eu/s/0000000001", "crm/eu/s/0000000002"]
    assert store.members() == {("s", f"p{n}") for n in (4, 6, 7)}
    shown = str([project.destinations.show("s3"), project.destinations.all()])
    assert "secret'" not in shown
    project.destinations.delete("s3")
    assert store.members() == set()


def test_no_attribute_takes_the_place_of_a_column_of_ours(project: Project, store: Bucket) -> None:
    project.destinations.create("s3", "objectstore", store.settings, uses=["analytics"], secret=b"secret")
    for field in ("identity", "status"):
        with pytest.raises(InvalidInput, match="of its own"):
            project.destinations.activate("s3", ["s"], mapping={field: "orders"})


def test_a_message_that_comes_twice_is_one_object(store: Bucket) -> None:
    for _ in range(2):
        assert sent(target(store.settings), b"a,b\n") == Delivered()
    assert store.objects() == ["crm/eu/s/0000000007-msg_1.csv"]
    assert store.body(store.objects()[0]) == b"a,b\n"
    assert sent(target({**store.settings, "format": "parquet", "prefix": ""})) == Delivered()
    assert "s/0000000007-msg_1.parquet" in store.objects()


def test_it_writes_what_the_file_kind_writes(store: Bucket) -> None:
    for form in ("csv", "jsonl", "parquet"):
        assert target({**store.settings, "format": form}).encode(batch("p1", "p2")) == formats.encode(
            batch("p1", "p2"), form
        )


def test_outbound_files_of_audience_manager_lie_beside_their_control_files(project: Project, store: Bucket) -> None:
    about = {"format": "audience-manager", "destination_id": "1", "data_source": "20914"}
    project.destinations.create("s3", "objectstore", {**store.settings, **about}, uses=["analytics"], secret=b"secret")
    project.destinations.activate("s3", ["s"], audience_id="24")
    control, data = sorted(store.objects())
    assert re.fullmatch(r"crm/eu/S3_1_20914_full_\d{13}001\.sync", data)
    assert control == data.replace(".sync", ".info")
    assert sorted(store.body(data).decode().splitlines()) == [f"p{number}\t24" for number in range(4, 8)]
    (about,) = json.loads(store.body(control))["Files"]
    assert about["md5"] == hashlib.md5(store.body(data)).hexdigest()


def test_a_bucket_that_is_not_there_disables(store: Bucket, project: Project) -> None:
    settings = {**store.settings, "bucket": "another"}
    project.destinations.create("s3", "objectstore", settings, uses=["analytics"], secret=b"secret")
    assert project.destinations.check("s3")["code"] == "bucket"
    project.destinations.activate("s3", ["s"])
    assert project.destinations.show("s3")["status"] == "disabled"
    assert project.destinations.show("s3")["waiting"] == 4


def test_no_credential_of_the_nodes_own_account_is_used(store: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-the-account")
    headers = target(store.settings)._signed("PUT", "/audiences/x", b"body")
    assert "Credential=key/" in headers["authorization"]
    assert "of-the-account" not in str(headers)
    assert "secret" not in str(headers)


def test_the_signature_is_what_amazon_documents(store: Bucket) -> None:
    headers = target(store.settings)._signed("PUT", "/audiences/crm/x", b"body")
    algorithm, _, said = headers.pop("authorization").partition(" ")
    parts = dict(each.strip().split("=", 1) for each in said.split(","))
    scope = parts["Credential"].partition("/")[2]
    names = parts["SignedHeaders"].split(";")
    assert {"host", "x-amz-content-sha256", "x-amz-date"} <= set(names)
    digest = hashlib.sha256(b"body").hexdigest()
    canonical = "".join(f"{name}:{headers[name]}\n" for name in names)
    request = f"PUT\n/audiences/crm/x\n\n{canonical}\n{parts['SignedHeaders']}\n{digest}"
    text = f"{algorithm}\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4secret"
    for each in scope.split("/"):
        key = hmac.digest(key, each.encode(), "sha256")
    assert parts["Signature"] == hmac.digest(key, text.encode(), "sha256").hex()


def test_the_bucket_is_in_the_path_or_in_the_host() -> None:
    common = {"bucket": "b-1", "access_key_id": "k"}
    for settings, beginning, host in (
        ({}, "/b-1", "s3.us-east-1.amazonaws.com"),
        ({"region": "eu-west-1", "prefix": "/x/y/"}, "/b-1/x/y", "s3.eu-west-1.amazonaws.com"),
        ({"url": "https://b-1.oss.example.com/"}, "", "b-1.oss.example.com"),
        ({"url": "https://minio.example.com:9000/store"}, "/store/b-1", "minio.example.com:9000"),
    ):
        found = target({**common, **settings})
        assert (found._beginning, found._server.host) == (beginning, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]"])
def test_no_address_is_called_that_the_operator_has_not_allowed(store: Bucket, host: str) -> None:
    found = target({**store.settings, "url": f"https://{host}"}, AllowedAddresses())
    assert sent(found) == Refused("address")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"url": "http://minio.example.com"}, "no address of an object store"),
        ({"url": "http://10.0.0.1"}, "no address of an object store"),
        ({"url": "https://a:b@minio.example.com"}, "no address of an object store"),
        ({"url": "https://minio.example.com/?x=1"}, "no address of an object store"),
        ({"bucket": "a/b"}, "no bucket"),
        ({"bucket": "x y"}, "no bucket"),
        ({"region": "eu west"}, "no region"),
        ({"region": "evil.example.com/"}, "no region"),
        ({"access_key_id": "k\n"}, "no access_key_id"),
        ({"prefix": "../x"}, "no prefix"),
        ({"prefix": "a//b"}, "no prefix"),
        ({"prefix": "a?b"}, "no prefix"),
        ({"format": "xml"}, "no format"),
        ({"secret": "x"}, "has no setting 'secret'"),
    ],
)
def test_bad_settings_are_refused_in_words(node: Node, settings: dict[str, str], match: str) -> None:
    good = {"bucket": "b-1", "access_key_id": "k"}
    with pytest.raises(InvalidInput, match=match):
        node.project().destinations.create("s3", "objectstore", good | settings, secret=b"x")


def test_a_key_is_needed_and_a_package(node: Node, store: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="secret key"):
        node.project().destinations.create("s3", "objectstore", store.settings)
    found = target(store.settings)
    monkeypatch.setitem(__import__("sys").modules, "botocore.auth", None)
    assert sent(found) == Gone("package")
    monkeypatch.setattr(object_stores, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="botocore"):
        OBJECT_STORE.checked(store.settings)


def test_a_name_from_a_backup_that_was_written_to_do_harm_leads_nowhere(store: Bucket) -> None:
    for segment in ("../../x", "..", "a/b"):
        with pytest.raises(Failure):
            sent(target(store.settings), segment=segment)
    assert store.objects() == []


def test_nobody_listens(store: Bucket) -> None:
    assert sent(target({**store.settings, "url": "http://127.0.0.1:1"})) == Later("connection")
