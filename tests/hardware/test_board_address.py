from __future__ import annotations

import pytest

from ofa_compile.errors import DeviceUnavailableError, TargetSpecError
from ofa_compile.hardware.board_address import Endpoint, board_address, parse_endpoint


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACKER", "BOARD", "BOARD_TOKEN"):
        monkeypatch.delenv(f"OFA_COMPILE_{name}", raising=False)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.7:9090", Endpoint("10.0.0.7", 9090)),
        ("pi-4.lan:1", Endpoint("pi-4.lan", 1)),
        ("[::1]:9190", Endpoint("::1", 9190)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, "here") == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["", "host", "host:", "host:0", "host:65536", "::1:90", "a b:1"])
def test_malformed_endpoints(text: str) -> None:
    with pytest.raises(TargetSpecError, match="here must be HOST:PORT"):
        parse_endpoint(text, "here")


def test_file_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    found = board_address({"tracker": "a:1", "key": "", "wait_s": 5}, "pi4")
    assert (found.endpoint, found.is_tracker, found.key, found.wait_s) == (
        Endpoint("a", 1),
        True,
        "pi4",
        5,
    )
    assert not board_address({"server": "b:2"}, "pi4").is_tracker
    monkeypatch.setenv("OFA_COMPILE_BOARD_TOKEN", "secret")
    assert board_address({"server": "b:2", "key": "x"}, "pi4").token == "secret"


def test_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFA_COMPILE_TRACKER", "c:3")
    assert board_address({"server": "b:2"}, "pi4").endpoint == Endpoint("c", 3)
    monkeypatch.setenv("OFA_COMPILE_BOARD", "d:4")
    found = board_address({"tracker": "a:1"}, "pi4")
    assert (found.endpoint, found.is_tracker) == (Endpoint("d", 4), False)
    monkeypatch.setenv("OFA_COMPILE_BOARD", "d")
    with pytest.raises(TargetSpecError, match="OFA_COMPILE_BOARD must be HOST:PORT"):
        board_address({}, "pi4")


def test_nothing_says_where() -> None:
    with pytest.raises(DeviceUnavailableError, match="target 'pi4' runs on boards") as caught:
        board_address({}, "pi4")
    assert "OFA_COMPILE_TRACKER" in str(caught.value.hint)


def test_strange_keys_are_refused() -> None:
    with pytest.raises(TargetSpecError, match=r"'runner\.key' of target 'pi4' is 'a b'"):
        board_address({"server": "b:2", "key": "a b"}, "pi4")
