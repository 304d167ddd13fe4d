"""Multi-objective search over architectures.

`ofa_compile.search` is both this package and a function of the public API. Importing any module
of the package makes it an attribute of `ofa_compile`, so the package itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """A package that hands a call on to the function of its own name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call `ofa_compile.search.search.search`."""
        from ofa_compile.search.search import search

        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
