"""Worker process that builds MetaSchedule's candidates: TVM is imported once, then many are built.

Run as a module by `metaschedule.WarmBuilder`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.tuning.build_worker import link_shared
from ofa_compile.tuning.serve import Reply, keep_torch_out, serve

if TYPE_CHECKING:
    from ofa_compile.compiler.tvm_api import IRModule


def main() -> None:
    """Serve requests to build candidates."""
    keep_torch_out()
    from ofa_compile.compiler.tvm_api import limit_intrinsics

    limit_intrinsics()
    serve(_build)


def _build(request: dict[str, Any], reply: Reply) -> None:
    """Write the candidates, each into a folder of its own, which MetaSchedule deletes.

    Code for processors goes into one library, as linking takes longer than compiling a function.
    It has a name in every candidate's folder, which is also the name of its function.
    """
    folder = Path(request["folder"])
    objects: dict[int, Path] = {}
    for number, candidate in enumerate(request["candidates"]):
        reply(starting=number)
        place = folder / str(number)
        place.mkdir()
        try:
            artifact = _compile(candidate, f"candidate_{number}", place, request["is_joint"])
        except Exception as error:  # TVM's errors share no class of their own
            reply(result=number, error=f"{type(error).__name__}: {error}")
            continue
        if artifact.suffix == ".o":
            objects[number] = artifact
        else:
            reply(result=number, artifact=str(artifact))
    if objects:
        _link(objects, folder / "candidates.so", request["linker"], reply)


def _compile(candidate: dict[str, Any], name: str, folder: Path, is_joint: bool) -> Path:
    """Write an object file with one function of this name, or else what TVM's own builder does."""
    from ofa_compile.compiler.tvm_api import meta_schedule, tvm

    build = meta_schedule.builder.local_builder.default_build
    target = tvm.ir.load_json(candidate["target"])
    module = tvm.ir.load_json(candidate["module"])
    is_joint = is_joint and str(target.kind.name) == "llvm" and len(module.functions) == 1
    built = build(_renamed(module, name) if is_joint else module, target, None)
    if is_joint:
        artifact = folder / f"{name}.o"
        built.write_to_file(str(artifact), "o")
    else:
        artifact = folder / "module.tar"
        built.export_library(str(artifact), fcompile=tvm.support.tar.tar)
    return artifact


def _renamed(module: IRModule, name: str) -> IRModule:
    from ofa_compile.compiler.tvm_api import IRModule

    (function,) = module.functions.values()
    return IRModule({name: function.with_attr("global_symbol", name)})


def _link(objects: dict[int, Path], library: Path, linker: list[str], reply: Reply) -> None:
    try:
        link_shared(linker, list(objects.values()), library)
    except (RuntimeError, OSError) as error:
        for number in objects:
            reply(result=number, error=str(error))
        return
    for number, path in objects.items():
        artifact = path.with_suffix(".so")
        os.link(library, artifact)
        path.unlink()
        reply(result=number, artifact=str(artifact))
    library.unlink()


if __name__ == "__main__":
    main()
