"""What people give a node by mistake: one error that names what to do, exit code 1, no traceback, an audit row."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import main
from node.node import Node

Refused = Callable[..., dict[str, str]]
HASH = "b4c9a289323b21a01c3e940f150eb9b8c542587f1abfd8f0e1cc1ffc5e475514"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    Node.create(home, "Fern").close()

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([*arguments, "--home", str(home), "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out

    return run


@pytest.fixture
def refused(run: Callable[..., tuple[int, str]], home: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail, as JSON and for people; returns the error after a look for its audit row."""

    def refused(*arguments: str, act: str | None = None) -> dict[str, str]:
        code, out = run(*arguments)
        assert code == 1, out
        error: dict[str, str] = json.loads(out)["error"]
        assert error["message"]
        assert error["hint"], error
        capsys.readouterr()
        assert main([*arguments, "--home", str(home)]) == 1
        said, err = capsys.readouterr()
        assert said == ""
        assert err == f"vesica: error: {error['message']}\nvesica: hint: {error['hint']}\n"
        if act is not None:
            with Node.open(home) as node:
                rows = [row for row in node.audit.entries(act=act) if row.result in ("deny", "fail")]
            assert len(rows) == 2
        return error

    return refused


def load(file: Path, *more: str, identity: str = "mail=email_sha256") -> list[str]:
    return ["profile", "import", str(file), "--dataset", "crm", "--id", "id", "--identity", identity, *more]


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(b"id,mail\n", id="a header and nothing else"),
        pytest.param(b"PAR1 and not really", id="a broken parquet file"),
        pytest.param(b"\x1f\x8bnot gzip", id="a broken gzip file"),
        pytest.param(b"\x00\x01\x02\x03" * 100, id="no text at all"),
        pytest.param(b"p1,p1@x.com\np2,p2@x.com\n", id="no header"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, refused: Refused, content: bytes) -> None:
    file = tmp_path / "people.csv"
    file.write_bytes(content)
    error = refused(*load(file), act="profile.import")
    assert "p1@x.com" not in error["message"]


@pytest.mark.feature("ID8")
@pytest.mark.parametrize(
    ("content", "accepted", "lines"),
    [
        pytest.param("id,mail\np1,p1@x.com\n".encode("utf-16-be"), 1, [], id="utf-16 without a mark"),
        pytest.param(b"\xef\xbb\xbfid;mail\np1;p1@x.com\n", 1, [], id="a mark and semicolons"),
        pytest.param("id\tmail\tname\nä1\tp1@x.com\tÄnn\n".encode("latin-1"), 1, [], id="latin-1 and tabs"),
        pytest.param(b'id,mail\np1,p1@x.com\np2,"p2@x.com\np3,p3@x.com\n', 2, [3], id="an unclosed quote"),
        pytest.param(b"id,mail\np1,p1@x.com\np2,p2@x.com,x,y\n", 1, [3], id="a row with too many cells"),
    ],
)
def test_a_file_with_a_mess(
    tmp_path: Path, run: Callable[..., tuple[int, str]], content: bytes, accepted: int, lines: list[int]
) -> None:
    file = tmp_path / "people.csv"
    file.write_bytes(content)
    code, out = run(*load(file))
    assert code == 0, out
    report = json.loads(out)
    assert report["accepted"] == accepted
    assert [line for each in report["rejected"].values() for line in each["lines"]] == lines


def test_a_path_that_is_no_file(tmp_path: Path, refused: Refused) -> None:
    assert "directory" in refused(*load(tmp_path), act="profile.import")["message"]
    refused(*load(tmp_path / "nowhere.csv"))


def test_columns_and_namespaces_that_are_not_there(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "people.csv"
    file.write_text("id,mail\np1,p1@x.com\n")
    assert "email" in refused(*load(file, identity="email=email_sha256"), act="profile.import")["message"]
    refused(*load(file, identity="mail=email_md5/Ü"))
    refused(*load(file, "--attribute", "age"))
    refused(*load(file, "--region", "XX", identity="mail=phone_sha256"))


@pytest.mark.feature("ID2")
@pytest.mark.feature("ID6")
def test_hashes_and_phones_that_are_wrong_are_counted_by_line(
    tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    file = tmp_path / "people.csv"
    file.write_text(f"id,mail,phone\np1,{HASH},07400 123456\np2,{HASH[:-1]},+447400123456\np3,{HASH}00,\np4,{HASH},\n")
    code, out = run(*load(file, "--identity", "phone=phone_sha256", identity="mail=email_sha256:hashed"))
    assert code == 0, out
    assert HASH[:20] not in out
    assert "7400" not in out
    mail, phone = json.loads(out)["columns"]
    assert mail["accepted"] == 2
    assert [line for each in mail["dropped"].values() for line in each["lines"]] == [3, 4]
    assert phone["accepted"] == 1
    assert [2] in [each["lines"] for each in phone["dropped"].values()]  # it has no region; the others are empty


def test_names_that_cannot_be(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "ids.csv"
    file.write_text("id\np1\n")
    for name in ("Vip", "v ip", "../vip", "", "v" * 64, "-vip"[1:] + "/", "\x1b[31m"):
        refused("segment", "create", name, "--members", str(file), act=None)
        refused("project", "create", name)


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "create", "old", "--rule", "age >"),
        ("segment", "create", "old", "--rule", "age > 3; DROP TABLE x"),
        ("segment", "create", "old", "--rule", "own.nothing"),
        ("segment", "create", "old", "--rule", "received.nobody.vip"),
        ("segment", "show", "nothing"),
        ("segment", "evaluate", "nothing"),
        ("project", "show", "--project", "nothing"),
        ("feed", "show", "nothing"),
        ("feed", "publish", "nothing"),
        ("feed", "estimate", "nothing"),
        ("feed", "enable", "nothing"),
        ("feed", "decline", "nothing", "--yes"),
        ("feed", "sync", "nothing"),
        ("feed", "unshare", "nothing", "--segment", "vip", "--yes"),
        ("feed", "revoke", "nothing", "--yes"),
        ("feed", "create", "f", "--segment", "s", "--namespace", "n", "--partner", "p"),
        ("partner", "id"),
        ("partner", "accept", "nobody"),
        ("partner", "disconnect", "nobody", "--yes"),
        ("partner", "request", "vesica1", "--yes"),
        ("partner", "request", "hello", "--yes"),
        ("job", "show", "nothing"),
        ("label", "apply", "C99", "--field", "crm.mail"),
        ("policy", "enable", "nothing"),
        ("audit", "verify", "--head", "nonsense"),
        ("project", "terms", "--epsilon", "-1"),
        ("node", "init", "--org", "Fern"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_or_cannot_be(refused: Refused, arguments: tuple[str, ...]) -> None:
    refused(*arguments)


def test_a_home_that_is_none_or_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    for home in (tmp_path / "nowhere", plain):
        assert main(["feed", "list", "--home", str(home), "--json"]) in (1, 2)
        out, err = capsys.readouterr()
        assert json.loads(out)["error"]["message"]
        assert err == ""
    with Node.create(tmp_path / "home", "Fern"):
        pass
    (tmp_path / "home" / "control.db").write_bytes(b"not a database" * 100)
    assert main(["feed", "list", "--home", str(tmp_path / "home"), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "store_unavailable"
    assert "backup" in error["hint"]
    (tmp_path / "home" / "config.json").write_text("{")
    assert main(["feed", "list", "--home", str(tmp_path / "home"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] != "internal"
