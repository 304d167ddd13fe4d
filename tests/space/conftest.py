"""Fixtures of the search-space tests."""

import os
from pathlib import Path

import pytest

from ofa_compile.space import search_space, search_spaces


@pytest.fixture(params=search_spaces())
def space(request):
    return search_space(request.param)


@pytest.fixture(scope="session")
def shared_data():
    """Folder with the authors' tables; OFA_COMPILE_SHARED points to it or to its parent."""
    root = os.environ.get("OFA_COMPILE_SHARED")
    candidates = [Path(root), Path(root, "data")] if root else []
    candidates.append(Path(__file__).parents[3] / "shared" / "data")
    for folder in candidates:
        if (folder / "ofa").is_dir():
            return folder
    pytest.skip("no shared data (set OFA_COMPILE_SHARED)")
