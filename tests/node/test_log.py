"""What comes very often is written now and then, with how often it came."""

import json
import logging

import pytest

from node import log


def test_lines_of_one_kind_are_limited_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.show(logging.WARNING)  # so what earlier tests wrote does not count
    times = iter([*range(5), *[5.0] * 100, 100.0, 100.0])
    monkeypatch.setattr("node.log.time.monotonic", lambda: next(times))
    for _ in range(104):
        log.warning("request refused", code="bad_signature")
    log.warning("request refused", code="malformed")
    log.warning("request refused", code="bad_signature")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["code"] for line in lines] == ["bad_signature"] * log.MOST + ["malformed", "bad_signature"]
    assert lines[-1]["left_out"] == 104 - log.MOST
    log.show(logging.WARNING)
