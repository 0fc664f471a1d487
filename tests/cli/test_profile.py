"""The commands profile, consent and segment, as a user types them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Document

from cli.main import main

ROWS = "customer,email,mobile,share,orders\n1, Ann@X.com ,07400 123456,y,7\n2,bob@x.com,,n,1\n3,broken\n4,nobody,,,9\n"
IMPORT = [
    "profile", "import", "people.csv", "--dataset", "crm", "--id", "customer", "--identity", "email=email_sha256",
    "--identity", "mobile=phone_sha256:primary", "--consent", "share", "--attribute", "orders", "--region", "GB",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", str(tmp_path / "home"))
    Path("people.csv").write_text(ROWS)
    assert main(["node", "init", "--org", "Fern"]) == 0


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Document:
    def run(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_import_and_look(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(*IMPORT)
    assert (report["rows"], report["accepted"], report["profiles_added"]) == (4, 3, 3)
    assert report["rejected"] == {"fewer cells than the header": {"count": 1, "lines": [4]}}
    assert report["columns"][0]["dropped"] == {"not an e-mail address": {"count": 1, "lines": [5]}}
    assert run("profile", "count")["profiles"] == 3
    shown = run("profile", "show", "1")
    assert [each["primary"] for each in shown["identities"]] == [False, True]
    assert shown["attributes"] == {"crm": {"orders": "7"}}
    assert main(IMPORT) == 0
    text = capsys.readouterr().out
    assert "fewer cells than the header" in text
    assert "value of email" in text
    assert "nobody" not in text
    assert "--region" not in text
    assert main(["profile", "show", "1"]) == main(["profile", "count"]) == 0


@pytest.mark.feature("OP11")
def test_erase_and_delete(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(IMPORT) == 0
    assert main(["profile", "erase", "1"]) == 2  # it asks, and nobody is there to answer
    capsys.readouterr()
    assert main(["profile", "erase", "--identity", "email_sha256=ann@x.com", "--prove", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "erased 1 profile\n" in shown
    assert "later imports leave them out: yes" in shown
    assert "ann@x.com" not in shown
    assert run(*IMPORT)["rejected"]["erased here before"]["count"] == 1
    alone = Path("alone.csv")
    alone.write_text("id,email\n1,ann@x.com\n")
    again = ["profile", "import", str(alone), "--dataset", "crm", "--id", "id", "--identity", "email=email_sha256"]
    assert main(again) == 1
    refusal = " ".join(capsys.readouterr().err.split())
    assert (
        "they stay out; to let them return, name their id and each of their identities: vesica profile readmit"
        in refusal
    )
    assert main(["profile", "readmit", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 id or identity may return" in shown
    assert "once its id and each identity of the row" in shown
    assert main(again) == 1
    assert run("profile", "readmit", "--identity", "email_sha256=ann@x.com")["lifted"] == 1
    assert [each["name"] for each in run("dataset", "list")] == ["crm"]
    assert (
        run("dataset", "drop-field", "crm", "phone", code=1)["error"]["message"] == "dataset crm has no field 'phone'"
    )
    assert run("dataset", "drop-field", "web", "phone", code=1)["error"]["message"] == "there is no dataset 'web'"
    assert run("dataset", "drop-field", "crm", "orders", code=2)["error"]["code"] == "usage"  # there, so it asks
    assert run("dataset", "drop-field", "crm", "orders", "--yes")["dropped"] == "crm.orders"
    assert run("dataset", "delete", "crm", "--yes")["profiles"] == 1  # of two, one said no
    assert "no datasets" in (capsys.readouterr(), main(["dataset", "list"]), capsys.readouterr().out)[2]


def test_consent(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run(*IMPORT)
    assert run("consent", "model", "maybe", code=1)["error"]["code"] == "invalid_input"
    assert run("consent", "model", "opt-in") == {"model": "opt-in"}
    assert run("consent", "set", "4", "y", "--at", "2020-01-01")["changed"] is True
    assert run("consent", "set", "4", "n", "--at", "2019-01-01")["changed"] is False
    assert run("consent", "set", "4", "n", "--at", "soon", code=1)["error"]["hint"]
    assert run("consent", "set", "1", "n", "--namespace", "email_sha256")["changed"] is True
    found = run("consent", "show", "1")["namespaces"]
    assert (found["email_sha256"]["may_be_shared"], found["phone_sha256"]["may_be_shared"]) == (False, True)
    Path("outs.csv").write_text("id,share\n1,n\nx,n\n")
    report = run("consent", "import", "outs.csv", "--id", "id", "--consent", "share")
    assert (report["changed"], report["rejected"]["no such profile"]["lines"]) == (1, [3])
    assert run("consent", "show")["profiles"] == {"y": 1, "n": 2}
    assert [each["act"] for each in run("audit", "list")][:2] == ["consent.import", "consent.set"]
    assert main(["consent", "show"]) == main(["consent", "show", "1"]) == 0
    assert "opt-in" in capsys.readouterr().out


@pytest.mark.feature("CO3")
def test_a_withdrawal_outlives_the_next_import(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run(*IMPORT)
    run("consent", "set", "1", "n", "--basis", "mail")
    Path("next.csv").write_text("id,share\n1,y\n")
    again = ("profile", "import", "next.csv", "--dataset", "next", "--id", "id", "--consent", "share")
    assert run(*again)["withdrawals_kept"] == 1
    assert run("consent", "show", "1")["basis"] == "mail"
    capsys.readouterr()
    assert main(list(again)) == 0
    text = capsys.readouterr().out
    assert re.search(r"withdrawals kept +1\n", text)
    assert "vesica consent set" in text
    Path("late.csv").write_text("id,share,when\n1,y,2020-01-01\n")
    late = ["consent", "import", "late.csv", "--id", "id", "--consent", "share", "--time", "when"]
    assert main(late) == 0
    text = capsys.readouterr().out
    assert re.search(r"older than what is known\t1\t2\s", text)
    assert re.search(r"unchanged +0\n", text)


def test_another_model_is_tried_before_it_is_chosen(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run(*IMPORT)
    run("consent", "model", "opt-out")
    found = run("consent", "model", "opt-in", "--dry-run")
    assert (found["dry_run"], found["before"], found["model"]) == (True, "opt-out", "opt-in")
    assert found["profiles"] == {"leave": 0, "come": 0, "stay": 1}
    assert run("consent", "show")["model"] == "opt-out"
    assert main(["consent", "model", "opt-in", "--dry-run"]) == 0
    assert "would leave" in capsys.readouterr().out


def test_consent_policies(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run(*IMPORT)
    run("segment", "create", "all", "--rule", "orders > 0")
    (found,) = run("consent", "policy", "preview", "all", "--then", "consent.share = 'y'", "--if", "orders < 9")
    assert (found["segment_only"], found["both"], found["consented_only"]) == (1, 2, 0)
    made = run("consent", "policy", "create", "yes", "--then", "consent.share = 'y'", "--if", "orders < 9")
    assert (made["status"], made["action"], made["label"]) == ("disabled", "segment-match", None)
    assert run("consent", "policy", "enable", "yes") == {"name": "yes", "status": "enabled"}
    assert main(["consent", "show", "2"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["yes", "all", "segments", "no"] in shown
    assert [each["status"] for each in run("consent", "policy", "list")] == ["enabled"]
    assert run("consent", "policy", "create", "bad", "--then", "x; DROP", code=1)["error"]["code"] == "invalid_input"
    capsys.readouterr()
    assert main(["consent", "policy", "preview", "all", "--then", "orders > 1"]) == 0
    assert main(["consent", "policy", "list"]) == 0
    assert "consent.share = 'y'" in capsys.readouterr().out
    assert run("consent", "policy", "disable", "yes")["status"] == "disabled"
    assert run("consent", "policy", "delete", "yes", "--yes")["deleted"] is True


def test_a_query_in_place_of_a_file(run: Document, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "crm.db") as connection:
        connection.execute("CREATE TABLE people (customer, email)")
        connection.execute("INSERT INTO people VALUES (1, 'ann@x.com')")
    connection.close()
    rest = ["--dataset", "crm", "--id", "customer", "--identity", "email=email_sha256"]
    query = ["profile", "import", "--sql", "SELECT * FROM people", *rest]
    assert "--sql QUERY --database URL" in run(*query, code=1)["error"]["hint"]
    assert run(*query, "--database", f"sqlite:///{tmp_path}/crm.db")["profiles_added"] == 1
    monkeypatch.setenv("VESICA_SOURCE_URL", f"sqlite:///{tmp_path}/crm.db")
    assert run(*query)["profiles_updated"] == 1


def test_exports_of_other_products(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    profile = {
        "identityMap": {"ECID": [{"id": "7" * 38, "primary": True}], "CRMID": [{"id": "C1"}]},
        "consents": {"share": {"val": "n"}},
        "segmentMembership": {"ups": {"abc": {"status": "realized"}}},
        "person": {"gender": "male"},
    }
    Path("export.json").write_text(json.dumps(profile) + "\nbroken\n")
    Path("names.csv").write_text("id,name\nabc,VIP\n")
    options = ["--dataset", "aep", "--segments", "names.csv", "--attribute", "person.gender"]
    command = ["profile", "import-from", "segment-match", "export.json", *options]
    report = run(*command, "--namespace", "CRMID=crmid", "--id", "identityMap.CRMID")
    assert (report["accepted"], report["rejected"]["not a JSON object"]["lines"]) == (1, [2])
    assert report["segments"] == [{"id": "abc", "name": "vip", "size": 1, "created": True}]
    assert run("profile", "show", "C1")["segments"] == ["vip"]
    Path("ftp_dpm_77_1500000000.sync").write_text("C1\td_sid=abc\n")
    report = run(
        "profile", "import-from", "audience-manager", "ftp_dpm_77_1500000000.sync", "--dataset", "aam", "--own-ids"
    )
    assert (report["profiles_updated"], report["segments"][0]["name"]) == (1, "abc")
    assert run("profile", "import-from", "audience-manager", "names.csv", "--dataset", "aam", code=1)["error"]["hint"]
    capsys.readouterr()
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "identity of namespace CRMID, which is not mapped" in text
    assert "vip" in text


def test_tcf_strings(run: Document) -> None:
    text = "COvFyGBOvFyGBAbAAAENAPCAAOAAAAAAAAAAAEEUACCKAAA"
    Path("tc.csv").write_text(f"id,email,tc\n1,ann@x.com,{text}\n2,bob@x.com,?\n")
    tcf = ["--consent-tcf", "tc", "--purpose", "1", "--vendor", "6"]
    report = run(
        "profile", "import", "tc.csv", "--dataset", "a", "--id", "id", "--identity", "email=email_sha256", *tcf
    )
    assert report["rejected"] == {"a broken TCF string": {"count": 1, "lines": [3]}}
    assert run("consent", "show", "1")["share"] == "y"
    report = run("consent", "import", "tc.csv", "--id", "id", "--tcf", "tc", "--namespace", "email_sha256")
    assert (report["accepted"], report["changed"]) == (1, 1)
    word = run("consent", "show", "1")["namespaces"]["email_sha256"]
    assert (word["share"], word["basis"]) == ("n", "TCF purposes 1 3 4")


def test_segments(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run(*IMPORT)
    assert run("segment", "create", "buyers", "--rule", "orders >= 7")["size"] == 2
    Path("lapsed.csv").write_text("customer\n2\n4\n")
    assert run("segment", "create", "lapsed", "--members", "lapsed.csv")["size"] == 2
    assert run("segment", "create", "both", "--rule", "own.buyers AND own.lapsed")["uses"] == [
        "own.buyers",
        "own.lapsed",
    ]
    assert [(each["name"], each["size"]) for each in run("segment", "list")] == [
        ("both", 1),
        ("buyers", 2),
        ("lapsed", 2),
    ]
    assert len(run("segment", "evaluate")) == 2
    assert run("segment", "export", "both", "out.csv")["size"] == 1
    assert Path("out.csv").read_text() == "id\n4\n"
    assert run("segment", "delete", "buyers", "--yes", code=1)["error"]["code"] == "refused"
    assert run("segment", "delete", "both", "--yes") == {"deleted": "both"}
    assert main(["segment", "list"]) == main(["segment", "show", "buyers"]) == 0
    assert "orders >= 7" in capsys.readouterr().out
    assert main(["segment", "create", "x"]) == 2
    assert main(["segment", "create", "x", "--rule", "1; DROP TABLE x"]) == 1
    error = capsys.readouterr().err
    assert "vesica: hint:" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("file", "content", "hint"),
    [
        ("nothing.csv", None, "name"),
        (".", None, "file"),
        ("empty.csv", b"", "header"),
        ("wrong.csv", b"customer:email\n1:a@x.com\n", "separated"),
        ("zip.csv", b"PK\x03\x04", "CSV"),
    ],
)
def test_bad_files_give_a_hint(run: Document, file: str, content: bytes | None, hint: str) -> None:
    if content is not None:
        Path(file).write_bytes(content)
    arguments = [file if each == "people.csv" else each for each in IMPORT]
    error = run(*arguments, code=1)["error"]
    assert hint in error["hint"]
    assert run("audit", "list")[0]["result"] == "deny"


def test_the_commands_load_nothing_heavy() -> None:
    heavy = "{'numpy', 'duckdb', 'sqlalchemy', 'rich'}"
    program = f"import sys, cli.profile, cli.consent, cli.segment; print({heavy} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_national_phone_numbers_are_told_of_the_region(capsys: pytest.CaptureFixture[str]) -> None:
    Path("phones.csv").write_text("id,mobile\n1,07400 123456\n2,+447400123457\n")
    given = ["profile", "import", "phones.csv", "--dataset", "crm", "--id", "id", "--identity", "mobile=phone_sha256"]
    assert main(given) == 0
    assert "--region GB" in capsys.readouterr().out
    assert main([*given, "--region", "GB"]) == 0
    assert "--region" not in capsys.readouterr().out
