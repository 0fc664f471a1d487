"""Inbound files as Audience Manager's documents show them, what is wrong with them, and the receipt that adds up."""

import gzip
import json
import os
import random as randomness
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from audiences import Audience

from cli.main import main
from node.audiencemanager import files, inbound_lines
from node.audiencemanager.files import load
from node.audiencemanager.receipt import Receipt
from node.errors import InvalidInput, NotFound
from node.node import Node

KILLER = str(Path(__file__).parents[2] / "support" / "killer.py")
DEVICE = "59767559181262060060278870901087098252"
IDFA = "6D92078A-8246-4BA4-AE5B-76104861E7DC"


@pytest.fixture
def audience(node: Node) -> Audience:
    return Audience(node)


def counts(receipt: dict[str, object]) -> dict[str, object]:
    return {name: count for name, count in receipt.items() if count and name.endswith(("s", "d", "id", "aam_ids"))}


def test_the_sample_lines_of_the_documents(audience: Audience, tmp_path: Path) -> None:
    own = audience.source("CRM")
    first = [audience.trait(own, f"trait {each}") for each in range(4)]
    by_code = audience.trait(own, "52", 'ic == "52"')
    by_pair = audience.trait(own, "plan", '"ACCOUNT_TYPE" == "HAC" AND Plans == "123"')
    camera = audience.trait(own, "camera", 'product == "camera"')
    of_other = audience.trait(audience.source("Other"), "other")

    devices = tmp_path / f"ftp_dpm_0_{own}_1366545717.sync"
    devices.write_text(f"{DEVICE}\td_sid={first[0]},d_sid={first[1]},d_unsid={first[2]}\n")
    apple = tmp_path / f"ftp_dpm_20915_{own}_1234567890.sync"
    apple.write_text(f"{IDFA}\tic=52,ic=55\r\n")
    crm = tmp_path / f"ftp_dpm_{own}_1366545717.sync.1"
    pairs = '"ACCOUNT_TYPE"="HAC","Plans"="123"'
    crm.write_text(f"1060413022\t{pairs}\n2\t-product = camera\n3\t{first[3]},52,{of_other}\n4\td_sid={of_other}\n")
    receipts = load(audience.scope, [devices, apple, crm])
    assert [each["files"] for each in receipts] == [[devices.name], [apple.name], [crm.name]]
    assert audience.has(first[0], 0, DEVICE) == audience.has(first[1], 0, DEVICE) == [True]
    assert audience.has(by_code, 20915, IDFA) == [True]
    assert audience.has(by_pair, own, "1060413022", "2", "3") == [True, False, False]
    assert audience.has(camera, own, "1060413022", "2") == [False, True]
    assert audience.has(by_code, own, "3") == audience.has(first[3], own, "3") == [True]
    assert audience.has(of_other, own, "3", "4") == [False, False]
    last = receipts[2]
    assert (last["traits_failed_validation"], last["records_with_failed_traits"]) == (2, 2)
    assert (last["records_received"], last["no_trait_realised"], last["stored_records"], last["devices"]) == (
        4,
        1,
        3,
        3,
    )
    assert (receipts[1]["signals"], receipts[1]["unused_signals"]) == (2, 0)

    left = tmp_path / f"ftp_dpm_0_{own}_1366545718.sync"
    left.write_text(f"{DEVICE}\t{first[0]}:0, {first[1]}:-1\n")
    assert load(audience.scope, [left])[0]["removed_traits"] == 2
    assert audience.has(first[0], 0, DEVICE) == audience.has(first[1], 0, DEVICE) == [False]


def test_an_overwrite_replaces_the_traits_of_its_source_for_the_ids_in_it(audience: Audience, tmp_path: Path) -> None:
    own, other = audience.source("CRM"), audience.source("Other")
    kept, gone, new, theirs = (
        audience.trait(source, name) for source, name in ((own, "kept"), (own, "gone"), (own, "new"), (other, "theirs"))
    )
    before = tmp_path / f"ftp_dpm_{own}_1.sync"
    before.write_text("".join(f"{each}\td_sid={kept},d_sid={gone}\n" for each in "abc"))
    theirs_file = tmp_path / f"ftp_dpm_{own}_{other}_1.sync"
    theirs_file.write_text(f"a\td_sid={theirs}\n")
    load(audience.scope, [before, theirs_file])
    file = tmp_path / f"ftp_dpm_{own}_2.overwrite.gz"
    file.write_bytes(gzip.compress(f"a\td_sid={kept},d_unsid={kept}\na\td_sid={new}\nb\t\n".encode()))
    (receipt,) = load(audience.scope, [file])
    assert audience.has(kept, own, *"abc") == [True, False, True]
    assert audience.has(gone, own, *"abc") == [False, False, True]
    assert audience.has(new, own, *"abc") == [True, False, False]
    assert audience.has(theirs, own, "a") == [True]
    assert (receipt["removed_traits"], receipt["realised_traits"], receipt["no_trait_realised"]) == (3, 2, 1)


def test_a_broken_line_costs_itself_and_is_counted_by_kind(
    audience: Audience, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "t")
    good = f"\td_sid={trait}".encode()
    file = tmp_path / f"ftp_dpm_{own}_1.sync"
    lines = [
        b"\xef\xbb\xbfgood" + good,
        b"no tab",
        b"\td_sid=1",
        b"utf\xff" + good,
        b"x\td_sid=abc",
        b'x\ta="open',
        b"x\t28:5",
        b"x\t" + b"k=v," * 25_600 + b"k=v",
        b"",
        b"y" * 300 + good,
        b"last" + good,
    ]
    file.write_bytes(b"\n".join(lines))
    (receipt,) = load(audience.scope, [file])
    broken = {each["reason"]: (each["count"], each["lines"]) for each in receipt["broken_lines"]}
    assert broken == {
        inbound_lines.NO_ID: (2, [2, 3]),
        inbound_lines.NOT_UTF8: (1, [4]),
        inbound_lines.BROKEN: (3, [5, 6, 7]),
        inbound_lines.TOO_LONG: (1, [8]),
    }
    assert (receipt["records_received"], receipt["format_errors"]) == (10, 7)
    assert (receipt["invalid_device_ids"], receipt["stored_records"]) == (1, 2)
    assert audience.has(trait, own, "good", "last", "x") == [True, True, False]

    monkeypatch.setattr(files, "LINES_OF_AN_ID", 3)
    many = tmp_path / f"ftp_dpm_{own}_2.sync"
    many.write_bytes(b"\n".join([b"many" + good] * 5 + [b"few" + good] * 3))
    (receipt,) = load(audience.scope, [many])
    assert receipt["broken_lines"] == [{"reason": inbound_lines.TOO_MANY, "count": 2, "lines": [4, 5]}]
    assert (receipt["stored_records"], receipt["devices"]) == (6, 2)


def test_ids_of_devices_and_of_audience_manager_have_their_own_count(audience: Audience, tmp_path: Path) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "t")
    for source, name in ((0, "invalid_aam_ids"), (20914, "invalid_device_ids")):
        file = tmp_path / f"ftp_dpm_{source}_{own}_1.sync"
        file.write_text(f"123\td_sid={trait}\n{DEVICE if not source else IDFA}\td_sid={trait}\n")
        (receipt,) = load(audience.scope, [file])
        assert (receipt[name], receipt["stored_records"]) == (1, 1)
    hashed = audience.source("Mail", namespace="email_sha256")
    file = tmp_path / f"ftp_dpm_{hashed}_{own}_1.sync"
    file.write_text(f"ann@fern.example\td_sid={trait}\n{'ab' * 32}\td_sid={trait}\n")
    (receipt,) = load(audience.scope, [file])
    assert (receipt["invalid_device_ids"], receipt["stored_records"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("people.csv", b"x", "not the name of an inbound file"),
        ("ftp_dpm_20914_1.sync", b"x\td_sid=1\n", "whose traits"),
        ("ftp_dpm_20914_20915_1.sync", b"x\td_sid=1\n", "whose traits"),
        ("ftp_dpm_99_1.sync", b"x\td_sid=1\n", "no data source 99"),
        ("ftp_dpm_2000000_1.sync", b"", "is empty"),
        ("ftp_dpm_2000000_1.sync", b"\n\r\n", "is empty"),
        ("ftp_dpm_2000000_1.sync.gz", gzip.compress(b"x\td_sid=1\n" * 99, mtime=0)[:-9], "damaged gzip"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_refused_before_any_is(
    audience: Audience, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "t")
    good, bad = tmp_path / f"ftp_dpm_{own}_9.sync", tmp_path / name
    good.write_text(f"a\td_sid={trait}\n")
    bad.write_bytes(content)
    with pytest.raises((InvalidInput, NotFound), match=message):
        load(audience.scope, [good, bad])
    assert audience.has(trait, own, "a") == [False]


def test_the_receipt_adds_up_on_random_files_and_a_rehearsal_has_the_same(
    audience: Audience, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 64)
    random = randomness.Random(18)
    own, other = audience.source("CRM"), audience.source("Other")
    mine = [audience.trait(own, f"t{each}") for each in range(3)]
    audience.trait(own, "by rule", 'k == "1"')
    theirs = audience.trait(other, "theirs")
    words = [
        f"d_sid={mine[0]}",
        f"d_unsid={mine[1]}",
        f"d_sid={theirs}",
        "d_sid=99",
        "k=1",
        "k=2",
        "q",
        f"{mine[2]}:0",
        "x=1",
    ]
    for mode in ("sync", "overwrite"):
        file = tmp_path / f"ftp_dpm_20914_{own}_{mode[0] == 's':d}.{mode}"
        lines = [
            random.choice(["bad", f"{IDFA[:-2]}{random.randrange(20):02}"])
            + random.choice("\t\t ")
            + ",".join(random.choices(words, k=random.randrange(4)))
            for _ in range(500)
        ]
        file.write_text("\n".join(lines))
        rehearsed = load(audience.scope, [file], rehearse=True)
        assert audience.has(mine[0], 20914, IDFA[:-2] + "01") == [False] or mode == "overwrite"
        (receipt,) = loaded = load(audience.scope, [file])
        assert rehearsed == loaded
        assert receipt["records_received"] == receipt["records_processed"] == 500
        errors = ("format_errors", "invalid_aam_ids", "invalid_device_ids", "no_matching_id", "no_trait_realised")
        assert receipt["stored_records"] == 500 - sum(receipt[name] for name in errors)
        assert all(
            receipt[name] for name in ("format_errors", "invalid_device_ids", "no_trait_realised", "stored_records")
        )
        assert receipt["format_errors"] == sum(each["count"] for each in receipt["broken_lines"])
        assert receipt["signals"] >= receipt["unused_signals"] > 0
        again = load(audience.scope, [file])[0]  # nothing more comes of it
        assert {**again, "removed_traits": 0} == {**receipt, "removed_traits": 0}


def test_the_sample_receipt_of_the_documents_would_add_up_here() -> None:
    receipt = Receipt(files=[], received=40_669_900, invalid_aam_ids=112, no_trait_realised=26_730_823)
    assert receipt.stored == 13_938_965  # theirs prints 13,938,958


def test_a_load_that_is_killed_leaves_whole_chunks_and_the_same_file_completes_it(
    audience: Audience, tmp_path: Path
) -> None:
    own = audience.source("CRM")
    trait, other = audience.trait(own, "t"), audience.trait(own, "other", 'k == "1"')
    ids = [f"id{each}" for each in range(files.CHUNK + 100)]
    file = tmp_path / f"ftp_dpm_{own}_1.sync"
    file.write_text("".join(f"{each}\td_sid={trait},k=1\n" for each in ids))
    kill = {**os.environ, "KILL": "called node.audiencemanager.files:receive_rows 1"}
    words = ["audience", "load", str(file), "--home", str(audience.node.home.path)]
    done = subprocess.run([sys.executable, KILLER, *words], env=kill, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sum(audience.has(trait, own, *ids)) == sum(audience.has(other, own, *ids)) == files.CHUNK
    for _ in range(2):
        (receipt,) = load(audience.scope, [file])
        assert (receipt["stored_records"], receipt["devices"]) == (len(ids), len(ids))
        assert sum(audience.has(trait, own, *ids)) == sum(audience.has(other, own, *ids)) == len(ids)
    acts = [each.act for each in audience.node.audit.entries() if each.act.startswith("audience.load")]
    assert sorted(acts) == ["audience.load"] * 3 + ["audience.loaded"] * 2


def test_the_receipt_on_the_screen_is_the_one_in_json(
    audience: Audience, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = audience.source("CRM")
    trait = audience.trait(own, "t")
    file = tmp_path / f"ftp_dpm_{own}_1.sync"
    file.write_text(f"a\td_sid={trait}\nb\td_sid=99\nbroken\n")
    words = ["audience", "load", str(file), "--dry-run", "--home", str(audience.node.home.path)]
    assert main([*words, "--json"]) == 0
    (receipt,) = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    shown = capsys.readouterr().out
    printed = [int(line.split()[-1]) for line in shown.splitlines()[1:16]]
    assert printed == [count for count in receipt.values() if isinstance(count, int)][:15]
    assert printed[:8] == [3, 1, 0, 0, 0, 1, 3, 1]
    assert "nothing was changed" in shown
    assert audience.has(trait, own, "a") == [False]
