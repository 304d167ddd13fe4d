from __future__ import annotations

from pathlib import Path

import pytest

from ofa_compile.atomic_file import replacing


def test_the_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as staging:
        staging.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_block_that_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_a_part() -> None:
        with replacing(path) as staging:
            staging.write_text("a part")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_a_part()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
