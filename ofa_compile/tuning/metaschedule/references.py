"""What is right: the functions that are tuned, compiled as they are for this machine."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ofa_compile.compiler.tvm_api import IRModule, PrimFunc, Target, meta_schedule, tvm
from ofa_compile.errors import BuildError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.build_worker import link_shared


class References:
    """Functions by the arguments that they take.

    Parameters
    ----------
    functions
        An IRModule or a PrimFunc; None if nothing is known.
    folder
        Existing folder for the library.

    Attributes
    ----------
    library
        Has all of them; absent if there are none.

    Raises
    ------
    BuildError
        If one cannot be compiled for this machine.
    """

    def __init__(self, functions: IRModule | PrimFunc | None, folder: Path) -> None:
        self.library = folder / "references.so"
        self._symbols: dict[str, list[str]] = defaultdict(list)
        if isinstance(functions, PrimFunc):
            functions = IRModule({"main": functions})
        found = functions.functions.items() if functions is not None else ()
        objects: list[Path] = []
        for variable, function in found:
            arguments = _arguments(function)
            if arguments is None:
                continue
            symbol = f"reference_{len(objects)}"
            objects.append(folder / f"{symbol}.o")
            _compile(function, str(variable.name_hint), symbol, objects[-1])
            self._symbols[arguments].append(symbol)
        if objects:
            link_shared(find_linker(load_target("host")).command, objects, self.library)

    def of(self, arguments: str) -> list[str]:
        """Return the names of those that take such arguments (types and shapes in JSON)."""
        return list(self._symbols.get(arguments, ()))


def _arguments(function: Any) -> str | None:
    """Return what a function takes; None for what is no candidate, such as a graph."""
    if not isinstance(function, PrimFunc):
        return None
    try:
        infos = meta_schedule.arg_info.ArgInfo.from_prim_func(function)
    except Exception:  # sizes that are not known; TVM's errors share no class of their own
        return None
    return json.dumps([info.as_json()[1:] for info in infos])


def _compile(function: PrimFunc, name: str, symbol: str, path: Path) -> None:
    # A module of a GPU's functions says of each that it is one.
    plain = function.without_attr("target").with_attr("global_symbol", symbol)
    try:
        built = tvm.tirx.build(IRModule({symbol: plain}), target=Target({"kind": "llvm"}))
        built.write_to_file(str(path), "o")
    except Exception as error:
        msg = f"the reference {name} cannot be compiled for this machine: {str(error)[:500]}"
        raise BuildError(
            msg, hint="pass the functions as they are before they are tuned"
        ) from error
