"""The report on an export that a partner restricts says each thing once."""

from pathlib import Path

import pytest
from sides import EMAIL, Pair, Person

from cli.main import main


@pytest.mark.two_nodes
@pytest.mark.feature("GV8")
def test_a_restricted_use_is_one_entry_with_all_its_ways(
    pair: Pair, person: type[Person], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [person(f"p{n}", f"p{n}@example.com") for n in range(6)]
    pair.prepare(known, known, {"vip": ["p0", "p1"], "more": ["p2"]})
    pair.share("f", ["vip", "more"], [EMAIL], restricted_uses=["analytics"])
    pair.acme.project.feeds.sync("f")
    pair.globe.project.segments.create("both", rule="received.acme.vip OR received.acme.more")
    capsys.readouterr()
    export = ["segment", "export", "both", str(tmp_path / "ids.csv"), "--use", "analytics"]
    assert main([*export, "--home", str(pair.globe.node.home.path)]) == 1
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "report:" in line] == [
        "vesica: report: acme's feed f (restricted uses) forbids analytics of segment both",
        "vesica: report:     lineage  analytics: received.acme.more > segment both",
        "vesica: report:     lineage  analytics: received.acme.vip > segment both",
        f"vesica: report:     fix      vesica segment update both --rule EXPR --home {pair.globe.node.home.path}",
    ]
