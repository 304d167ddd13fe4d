"""The search spaces this package knows, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ofa_compile.errors import ArchitectureError, closest_match
from ofa_compile.space.mobilenet import cifar_space, mobilenet_v3_space, proxyless_space
from ofa_compile.space.resnet import resnet50_space
from ofa_compile.space.search_space import SearchSpace

_BUILDERS: dict[str, Callable[[str], SearchSpace]] = {
    "ofa_mbv3_cifar": cifar_space,
    "ofa_mbv3_d234_e346_k357_w1.0": lambda name: mobilenet_v3_space(name, 1.0),
    "ofa_mbv3_d234_e346_k357_w1.2": lambda name: mobilenet_v3_space(name, 1.2),
    "ofa_proxyless_d234_e346_k357_w1.3": lambda name: proxyless_space(name, 1.3),
    "ofa_resnet50": resnet50_space,
}


def search_spaces() -> list[str]:
    """Return the names of all search spaces."""
    return sorted(_BUILDERS)


@cache
def search_space(name: str) -> SearchSpace:
    """Return a search space by name; the same object every time.

    Raises
    ------
    ArchitectureError
        If no space has that name.
    """
    if name not in _BUILDERS:
        near = closest_match(name, _BUILDERS)
        suggestion = f"; did you mean {near!r}?" if near else ""
        message = f"unknown search space {name!r}{suggestion}"
        raise ArchitectureError(message, hint=f"Known spaces: {', '.join(search_spaces())}.")
    return _BUILDERS[name](name)
