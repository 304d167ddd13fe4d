from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ofa_compile.cache import Cache, default_root, digest
from ofa_compile.errors import UserInputError


def key(name: object) -> str:
    return digest(str(name))


def fill(cache: Cache, names: list[str], size: int = 100) -> None:
    """Store entries one second apart, the first being the oldest."""
    for age, name in enumerate(reversed(names)):
        path = cache.put("objects", key(name), name.encode().ljust(size))
        os.utime(path, (1_000_000 - age, 1_000_000 - age))


def test_returns_what_was_stored(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.get("objects", key(1)) is None
    path = cache.put("objects", key(1), b"data")
    assert cache.get("objects", key(1)) == path
    assert path.read_bytes() == b"data"
    assert cache.get("plans", key(1)) is None
    cache.put("objects", key(1), b"newer")
    assert path.read_bytes() == b"newer"


_WRITER = """
import sys
from pathlib import Path
from ofa_compile.cache import Cache, digest
cache, worker = Cache(Path(sys.argv[1])), int(sys.argv[2])
names = [digest(str(number)) for number in range(5)]
for number in range(150):
    name = names[number % 5]
    cache.put("objects", name, name.encode() * 2000)
    path = cache.get("objects", names[(number + worker) % 5])
    if path is not None and path.read_bytes() != path.name.encode() * 2000:
        sys.exit("half an entry")
"""


def test_parallel_writers_never_show_half_an_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    workers = [subprocess.Popen([*command, str(n)]) for n in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert Cache(tmp_path).info().num_entries == 5
    assert not list(tmp_path.rglob(".new-*"))


def test_a_writer_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserInputError, match="No space left on device") as caught:
        Cache(tmp_path).put("objects", key(1), b"data")
    assert "OFA_COMPILE_CACHE" in str(caught.value.hint)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_prune_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=300)
    fill(cache, ["a", "b", "c", "d", "e"])
    assert cache.get("objects", key("b")) is not None  # used now
    assert cache.prune() == 2
    held = {name for name in "abcde" if cache.get("objects", key(name)) is not None}
    assert held == {"b", "d", "e"}
    assert cache.prune() == 0


def test_writing_prunes_now_and_then(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=1000)
    for number in range(200):
        cache.put("objects", key(number), b"x" * 100)
    info = cache.info()
    assert info.num_bytes <= 1000 + 64 * 100
    assert cache.get("objects", key(199)) is not None


def test_prune_removes_what_killed_writers_left(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=150)
    fill(cache, ["a"])
    left = tmp_path / "objects" / key("a")[:2] / ".new-abcdef"
    left.write_bytes(b"x" * 100)
    os.utime(left, (1, 1))
    assert cache.prune() == 1
    assert not left.exists()


def test_an_empty_entry_counts_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("objects", key(1), b"data").write_bytes(b"")
    assert cache.get("objects", key(1)) is None


def test_info_and_clear(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=1234)
    fill(cache, ["a", "b"])
    cache.put("plans", key("a"), b"x" * 50)
    info = cache.info()
    assert (info.num_entries, info.num_bytes, info.max_bytes) == (3, 250, 1234)
    assert info.root == tmp_path
    assert cache.clear() == info
    assert cache.info().num_entries == 0
    assert list(tmp_path.iterdir()) == []
    cache.put("objects", key("a"), b"again")
    assert cache.info().num_entries == 1


def test_an_absent_folder_is_an_empty_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "none")
    assert cache.info().num_entries == 0
    assert cache.clear().num_entries == 0
    assert cache.prune() == 0
    assert not (tmp_path / "none").exists()


def test_files_that_are_not_ours_survive(tmp_path: Path) -> None:
    """Somebody may set the cache to a folder full of other things."""
    ours = Cache(tmp_path, max_bytes=0)
    others = [tmp_path / "notes.txt", tmp_path / "src" / "ab" / "main.c", tmp_path / "a" / "b.c"]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    fill(ours, ["a"])
    assert ours.info().num_entries == 1
    assert ours.prune() == 1
    fill(ours, ["a"])
    assert ours.clear().num_entries == 1
    assert all(path.read_text() == "precious" for path in others)


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserInputError, match=r"cannot write to the cache folder .*file"):
        Cache(tmp_path / root).put("objects", key(1), b"data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = cache.put("objects", key(1), b"data")
    path.parent.chmod(0o500)
    path.chmod(0o400)
    try:
        assert cache.get("objects", key(1)) == path
        with pytest.raises(UserInputError, match="cannot write to the cache folder"):
            cache.put("objects", key(1), b"new")
    finally:
        path.parent.chmod(0o700)


def test_a_cache_that_is_only_readable_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    path = cache.put("objects", key(1), b"data")

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", read_only)
    assert cache.get("objects", key(1)) == path


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"
    assert Cache().root == tmp_path / "mine"
    monkeypatch.setenv("OFA_COMPILE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "ofa-compile"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "ofa-compile"


def test_digest_keeps_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", b"b") == digest(b"a", "b")
    assert digest() != digest("")
