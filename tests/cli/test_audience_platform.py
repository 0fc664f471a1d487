"""The older sharing as a user types it, from on to the hand-over, and where people are."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import main


def test_the_older_sharing_from_on_to_its_hand_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, code: int = 0) -> Any:
        assert main([*words, "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(out or err)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESICA_HOME", str(tmp_path / "home"))
    Path("people.csv").write_text("customer,e\n" + "".join(f"{n},{n or 1:038d}\n" for n in range(5)) + "9,\n")
    run("node", "init", "--org", "Fern")
    run("profile", "import", "people.csv", "--dataset", "crm", "--id", "customer", "--identity", "e=ecid")
    Path("some.csv").write_text("customer\n0\n1\n2\n3\n9\n")
    run("segment", "create", "buyers", "--members", "some.csv")
    run("segment", "create", "guests", "--members", "some.csv")
    run("consent", "model", "opt-out")
    run("consent", "set", "3", "n")
    assert run("audience", "sharing", "on")["sent"] == 2
    (row,) = run("destination", "list")
    assert (row["name"], row["of_all"], row["gets"]) == ("audience-sharing", True, ["buyers", "guests"])
    assert main(["destination", "list"]) == 0
    assert "audience-manager, the older sharing" in capsys.readouterr().out
    refused = run("destination", "create", "cloud", "--kind", "experience-cloud", code=1)
    assert refused["error"]["code"] == "legacy_sharing_on"
    assert "vesica audience sharing off --hand-over cloud" in refused["error"]["hint"]
    found = run("audience", "reconcile", "buyers")["sides"]
    assert found == [
        {
            "destination": "audience-sharing", "platform": 5, "counted": 2, "namespace": 1, "consent": 1, "merge": 1,
            "timing": 0, "leaving": 0,
        }
    ]  # fmt: skip
    assert main(["audience", "reconcile", "buyers"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert dict(zip(lines[0], lines[-1], strict=True)) == {name: str(value) for name, value in found[0].items()}
    assert main(["audience", "sharing", "off", "--segment", "buyers"]) == 2
    assert main(["audience", "sharing", "off", "--hand-over", "cloud", "--segment", "buyers"]) == 0
    out, err = capsys.readouterr()
    assert "cloud has taken over" in out
    assert "roles that are limited" in out + err
    assert run("destination", "show", "cloud")["gets"] == ["buyers"]
    assert run("audience", "reconcile", "buyers")["sides"][0]["counted"] == 2
    assert run("audience", "sharing", "off", code=1)["error"]["code"] == "refused"
    assert run("audience", "sharing", "on", code=1)["error"]["code"] == "legacy_sharing_on"
