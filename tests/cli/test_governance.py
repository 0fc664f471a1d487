"""Labels, policies and rules as a user types them: reports as text and as JSON, trees in and out."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Document

from cli.main import main

IMPORT = [
    "profile", "import", "people.csv", "--dataset", "crm", "--id", "customer", "--identity", "email=email_sha256",
    "--attribute", "orders", "--attribute", "country",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", str(tmp_path / "home"))
    Path("people.csv").write_text("customer,email,orders,country\n1,ann@x.com,7,GB\n2,bob@x.com,1,NO\n")
    assert main(["node", "init", "--org", "Fern"]) == 0
    assert main(IMPORT) == 0
    assert main(["segment", "create", "buyers", "--rule", "orders >= 5"]) == 0
    capsys.readouterr()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Document:
    def run(*arguments: str, code: int = 0) -> Any:
        assert main([*arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.feature("GV5")
@pytest.mark.feature("GV9")
def test_a_refusal_shows_its_report(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run("label", "apply", "C12", "--dataset", "crm")
    error = run("segment", "export", "buyers", "out.csv", code=1)["error"]
    assert (error["code"], list(error)[:3]) == ("policy_violation", ["code", "message", "hint"])
    (violation,) = error["violations"]
    assert violation["labels"] == ["C12"]
    assert [[place["name"] for place in trace["path"]] for trace in violation["lineage"]] == [
        ["crm", "crm.orders", "buyers"],
        ["crm", "crm.customer", "buyers"],
    ]
    assert main(["segment", "export", "buyers", "out.csv"]) == 1
    said, err = capsys.readouterr()
    assert said == ""
    assert err.splitlines()[1:] == [
        "vesica: report: label C12 (no export at all) forbids any export of segment buyers",
        "vesica: report:     labels   C12",
        "vesica: report:     lineage  C12: dataset crm > field crm.orders > segment buyers",
        "vesica: report:     lineage  C12: dataset crm > field crm.customer > segment buyers",
        "vesica: report:     fix      vesica label remove C12 --dataset crm",
        f"vesica: hint: {error['hint']}",
    ]
    assert not Path("out.csv").exists()


@pytest.mark.feature("GV4")
def test_policies_are_drafted_checked_edited_and_deleted(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run("label", "apply", "C3", "--field", "crm.orders")
    run("policy", "create", "soon", "--action", "analytics", "--when", "C1 OR (C3 AND C7)", "--draft")
    check = ("policy", "check", "buyers", "--action", "analytics")
    assert run(*check, "--include-draft")["allowed"] is True
    assert run("policy", "edit", "soon", "--when", "c3 AND c7")["expression"] == "C3 AND C7"
    run("label", "apply", "C7", "--segment", "buyers")
    assert run(*check)["allowed"] is True
    (violation,) = run(*check, "--include-draft", code=1)["violations"]
    assert (violation["policy"], violation["labels"]) == ("soon", ["C3", "C7"])
    run("policy", "enable", "soon")
    assert main(list(check)) == 1
    text = capsys.readouterr().out
    assert "policy soon (C3 AND C7) forbids analytics of segment buyers" in text
    assert "vesica label remove C7 --segment buyers" in text
    assert run("policy", "edit", "soon", "--draft")["status"] == "draft"
    assert main(list(check)) == 0
    assert "analytics is allowed" in capsys.readouterr().out
    assert run("policy", "delete", "soon", "--yes") == {"deleted": "soon"}
    assert run("policy", "delete", "soon", "--yes", code=1)["error"]["code"] == "not_found"
    assert run("policy", "edit", "restrict-analytics", "--draft", code=1)["error"]["code"] == "refused"
    assert run("policy", "check", "--feed", "nothing", code=1)["error"]["code"] == "not_found"
    for usage in (["policy", "check"], ["policy", "edit", "soon"]):
        assert main(usage) == 2


def test_a_rule_goes_out_as_a_tree_and_comes_in_again(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run("segment", "create", "s", "--rule", "country = 'NO' OR NOT own.buyers")
    for form in ("yaml", "json"):
        assert main(["segment", "show", "s", "--tree", form]) == 0
        Path("rule").write_text(capsys.readouterr().out)
        made = run("segment", "create", f"by-{form}", "--tree", "rule")
        assert made["tree"] == run("segment", "show", "s")["tree"]
        assert (made["rule"], made["size"]) == ("crm.country = 'NO' OR NOT own.buyers", 1)
    assert run("segment", "update", "s", "--rule", "orders > 0")["size"] == 2
    assert run("segment", "update", "s", "--tree", "rule")["size"] == 1
    Path("rule").write_text("rules: [{field: crm.orders, operator: ';', value: 1}]\ncombinator: and\n")
    error = run("segment", "update", "s", "--tree", "rule", code=1)["error"]
    assert (error["code"], error["hint"]) == (
        "invalid_input",
        "see how one looks: vesica segment show NAME --tree yaml",
    )
    for usage in (["segment", "update", "s"], ["segment", "create", "t", "--rule", "orders > 1", "--tree", "rule"]):
        assert main(usage) == 2


@pytest.mark.feature("GV8")
def test_an_export_says_what_it_is_for(run: Document, capsys: pytest.CaptureFixture[str]) -> None:
    run("label", "apply", "C4", "--field", "crm.orders")
    assert run("segment", "show", "buyers")["labels"] == ["C4"]
    assert main(["segment", "show", "buyers"]) == 0
    assert "C4 from field crm.orders > segment buyers" in capsys.readouterr().out
    run("policy", "enable", "restrict-email-targeting")
    error = run("segment", "export", "buyers", "out.csv", code=1)["error"]
    assert (
        error["hint"]
        == "say what the file is for, if it is for none of that: vesica segment export buyers FILE --use USE"
    )
    assert run("segment", "export", "buyers", "out.csv", "--use", "email-targeting", code=1)["error"]["violations"]
    done = run("segment", "export", "buyers", "out.csv", "--use", "analytics")
    assert done == {"segment": "buyers", "file": "out.csv", "size": 1, "uses": ["analytics"]}
    assert run("segment", "show", "received.fern.vip", code=1)["error"]["code"] == "not_found"


@pytest.mark.feature("GV1")
def test_a_label_that_nothing_heeds_is_not_put_without_a_word(
    run: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> list[str]:
        assert main(["label", "apply", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    assert told("c9", "--field", "crm.orders") == [
        "c9 is on field crm.orders",
        "No enabled policy heeds C9, so it forbids nothing yet: 'vesica policy enable restrict-data-science'",
    ]
    assert told("S2", "--dataset", "crm")[1].endswith("forbids nothing yet: 'vesica policy create' makes one")
    run("policy", "disable", "restrict-data-sharing", "--yes")
    assert len(told("C12", "--segment", "buyers")) == 1  # it needs no policy
    run("policy", "enable", "restrict-data-science")
    assert len(told("C9", "--dataset", "crm")) == 1
    run("consent", "policy", "create", "heeds", "--label", "S1", "--then", "country = 'GB'", "--enable")
    found = run("label", "apply", "S1", "--dataset", "crm")
    assert (found["heeded"], found["policies"]) == (True, {"enabled": ["heeds"], "others": []})
    assert run("label", "apply", "C4", "--dataset", "crm")["policies"]["others"] == [
        "restrict-cross-site-targeting",
        "restrict-email-targeting",
        "restrict-onsite-advertising",
        "restrict-onsite-personalisation",
    ]
