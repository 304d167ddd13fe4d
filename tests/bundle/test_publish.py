from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from publish_worker import publish_version

from ofa_compile.bundle import publish as publish_module
from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.bundle.publish import publish, resolve_output, staging_folder
from ofa_compile.errors import UserInputError

WORKER = Path(__file__).parent / "publish_worker.py"


def version_of(output: Path) -> int:
    """Load a published folder, checking every hash, and return its version."""
    return int(load_bundle(output).manifest.labels[0].removeprefix("version "))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_publishes_and_replaces(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "folder" / "bundle"
    for version in range(3):
        publish_version(output, version)
        assert version_of(output) == version
        assert names(output.parent) == ["bundle"]


def test_failed_run_leaves_the_old_bundle(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    publish_version(output, 1)

    def compile_and_fail() -> None:
        with staging_folder(output) as staging:
            (staging / "subnet").write_text("half")
            raise RuntimeError("compiler failed")

    with pytest.raises(RuntimeError, match="compiler failed"):
        compile_and_fail()
    assert version_of(output) == 1
    assert names(tmp_path) == ["bundle"]


def test_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def fill_the_disk() -> None:
        with staging_folder(tmp_path / "bundle"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserInputError, match=r"cannot write .*: No space left on device"):
        fill_the_disk()
    assert names(tmp_path) == []


def test_link_keeps_pointing_to_the_bundle(tmp_path: Path) -> None:
    publish_version(tmp_path / "real", 1)
    (tmp_path / "link").symlink_to("real")
    publish_version(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert version_of(tmp_path / "real") == 2


def test_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    publish_version(tmp_path / "bundle", 1)
    assert version_of(tmp_path / "bundle") == 1


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        publish_version(tmp_path / "bundle", 1)
    finally:
        os.umask(previous)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o755


def test_long_name_works(tmp_path: Path) -> None:
    output = tmp_path / ("é" * 127)
    publish_version(output, 1)
    publish_version(output, 2)
    assert names(tmp_path) == [output.name]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"thesis.tex": "years of work"}, r"is no bundle \(it holds thesis\.tex"),
        ({"manifest.json": '{"format": "other"}'}, "is no bundle"),
        ({"manifest.json": "{", "subnet": ""}, "is no bundle"),
        ({"subnet": "mine"}, "is no bundle"),
        ({"sub/x": "mine"}, "is no bundle"),
    ],
)
def test_folder_of_the_user_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    output = tmp_path / "bundle"
    for name, text in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text(text)
    with pytest.raises(UserInputError, match=message):
        resolve_output(output)
    with staging_folder(output) as staging, pytest.raises(UserInputError, match=message):
        publish(staging, output)
    assert {name: (output / name).read_text() for name in files} == files


def test_bundle_with_other_files_is_refused(tmp_path: Path) -> None:
    publish_version(tmp_path / "bundle", 1)
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(UserInputError, match=r"other files beside it \(it holds notes\.txt"):
        resolve_output(tmp_path / "bundle")


def test_file_that_appears_meanwhile_survives(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    publish_version(output, 1)
    with staging_folder(output) as staging:
        (output / "notes.txt").write_text("mine")
        with pytest.raises(UserInputError, match="other files"):
            publish(staging, output)
    assert (output / "notes.txt").read_text() == "mine"


def test_file_that_appears_at_the_last_moment_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bundle"
    publish_version(output, 1)
    rename = publish_module._renameat2

    def interfere(source: Path, target: Path, flags: int) -> None:
        (output / "notes.txt").write_text("mine")
        rename(source, target, flags)

    monkeypatch.setattr(publish_module, "_renameat2", interfere)
    publish_version(output, 2)
    assert version_of(output) == 2
    (kept,) = [path for path in tmp_path.iterdir() if path != output]
    assert (kept / "notes.txt").read_text() == "mine"


def test_unusable_outputs_are_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserInputError, match="is not a folder"):
        resolve_output(file)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for output in (file / "bundle", Path("/proc/nowhere/bundle"), loop / "bundle"):
        with pytest.raises(UserInputError, match=r"cannot write .*bundle") as caught:
            publish_version(output, 1)
        assert caught.value.hint
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserInputError, match="is the current folder"):
        resolve_output(Path())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserInputError, match="Permission denied"):
        publish_version(tmp_path / "locked" / "bundle", 1)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_refusals_of_the_system_are_clear_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserInputError, match=f"cannot write .*{os.strerror(code)}"):
        publish_version(tmp_path / "bundle", 1)


def test_file_system_without_exchange_keeps_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "bundle"
    publish_version(output, 1)

    def refuse(source: Path, target: Path, flags: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(publish_module, "_renameat2", refuse)
    with pytest.raises(UserInputError, match="cannot replace a folder in one step"):
        publish_version(output, 2)
    assert version_of(output) == 1
    assert names(tmp_path) == ["bundle"]


def test_stale_staging_is_removed_and_a_living_one_kept(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    stale = tmp_path / ".bundle.staging-1-dead"
    (stale / "sub").mkdir(parents=True)
    (stale / "sub" / "file").write_text("half")
    unrelated = tmp_path / ".bundle2.staging-1-dead"
    unrelated.mkdir()
    with staging_folder(output) as living:
        assert not stale.exists()
        publish_version(output, 1)
        assert living.exists()
    assert names(tmp_path) == [unrelated.name, "bundle"]


def test_another_run_at_the_same_time(tmp_path: Path) -> None:
    """Two runs publish to one place: the later one wins, neither breaks."""
    output = tmp_path / "bundle"
    with staging_folder(output) as first:
        publish_version(output, 7)
        from publish_worker import write_version

        write_version(first, 8)
        publish(first, output)
    assert version_of(output) == 8
    assert names(tmp_path) == ["bundle"]


KILL_POINTS: dict[str, Callable[[], Any]] = {
    "_sync": lambda: publish_module,
    "_renameat2": lambda: publish_module,
    "_create_staging": lambda: publish_module,
    "_try_lock": lambda: publish_module,
    "_discard": lambda: publish_module,
    "unlink": lambda: os,
    "rmdir": lambda: os,
}


def _publish_and_die(output: Path, version: int, name: str, count: int, *, after: bool) -> None:
    """In a forked child: kill ourselves before or after the call number `count` of a function."""
    owner = KILL_POINTS[name]()
    original = getattr(owner, name)
    calls = 0

    def die(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **options)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, die)
    publish_version(output, version)


def _child_was_killed(work: Callable[[], None]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", KILL_POINTS)
def test_kill_at_every_step_leaves_old_or_new(tmp_path: Path, name: str, after: bool) -> None:
    output = tmp_path / "bundle"
    for has_old in (False, True):
        for count in range(1, 20):
            if has_old:
                publish_version(output, 1)
            elif output.exists():
                for path in output.iterdir():
                    path.unlink()
                output.rmdir()
            killed = _child_was_killed(
                lambda n=count: _publish_and_die(output, 2, name, n, after=after)  # type: ignore[misc]
            )
            if has_old or output.exists():
                assert version_of(output) in ((1, 2) if has_old else (2,))
            if not killed:
                break
            publish_version(output, 3)  # the next run cleans up
            assert version_of(output) == 3
            assert names(tmp_path) == ["bundle"]
        else:
            pytest.fail(f"{name} is called too often to be swept")


def test_kill_at_random_times_leaves_a_whole_bundle(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    output = tmp_path / "bundle"
    publish_version(output, 0)
    last = 0
    for _ in range(10):
        command = [sys.executable, str(WORKER), str(output), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            seen, give_up = last, time.monotonic() + 30
            while seen == last:  # a reader never sees a mix
                seen = version_of_moving(output)
                assert seen >= last
                assert time.monotonic() < give_up
            time.sleep(random_.uniform(0.0, 0.05))
            worker.kill()
        version = version_of(output)
        assert version >= seen
        last = version
    publish_version(output, last + 1)
    assert version_of(output) == last + 1
    assert names(tmp_path) == ["bundle"]


def version_of_moving(output: Path) -> int:
    """Read through one descriptor of the folder, so that an exchange in between does not show."""
    while True:
        descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return version_of(Path(f"/proc/self/fd/{descriptor}"))
        except Exception:
            # Replaced and already removed while we read: look again at the current one.
            if os.path.samestat(os.fstat(descriptor), output.stat()):
                raise
        finally:
            os.close(descriptor)
