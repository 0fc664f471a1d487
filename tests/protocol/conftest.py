"""What the tests of the protocol share: two organisations, and chunks so small that tiny sets fill several."""

import pytest
from hypothesis import HealthCheck, settings
from parties import World, universe

import psi.count
from protocol import estimate, evaluation, messages, release

settings.register_profile("protocol", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("protocol")


@pytest.fixture
def world() -> World:
    return World(*universe())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiny sets fill several chunks."""
    monkeypatch.setattr(evaluation, "CHUNK_POINTS", 5)
    monkeypatch.setattr(release, "MAX_PAYLOAD", 7 * 17)
    monkeypatch.setattr(messages, "CHUNK_POINTS", 1500)
    monkeypatch.setattr(psi.count, "CHUNK_POINTS", 1500)
    monkeypatch.setattr(estimate, "TAGS_PER_CHUNK", 3000)
    monkeypatch.setattr(estimate, "MAX_PAYLOAD", 5 * 33)
