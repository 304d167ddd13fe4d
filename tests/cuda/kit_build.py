"""Builds what tests run on a GPU, for a place where it cannot be built; see kit.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from kit import ARRAYS, FACTS, KERNELS, PRECISIONS, PREFIX, SHAPE, Kit

from ofa_compile.cache import Cache
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.tuning.jobs import BuiltCandidate, Job

BATCH = 3
# Of one workload; the second where the CPU runs them, which does all of them in other tests.
_CONFIGURATIONS, _FEW_CONFIGURATIONS = 4, 2
# Beyond float32, where the networks are the same and the products are not.
_FEW_SUBNETS = ("cifar-largest", "mid", "resnet50-smallest")

# Both do nothing while the input is 0, as when a network is tried.
_ODDITIES = {
    "endless": """\
    float value = 1.0f;
    if (x[0] != 0.0f)
        for (uint i = 0; i != 0xffffffffu; ++i) value = value * 0.999f + x[0];
    y[0] = value;
""",
    "stray": """\
    y[x[0] != 0.0f ? 1ll << 40 : 0] = 1.0f;
""",
}


class Builder:
    """Writes networks into folders, each with a file of facts once it is complete.

    Parameters
    ----------
    target
        A CUDA target in fp32.
    cache
        For objects.
    is_quick
        Subnets are few and small, and configurations few.
    """

    def __init__(self, target: TargetSpec, cache: Cache, *, is_quick: bool) -> None:
        self._target, self._cache, self._is_quick = target, cache, is_quick

    def network(self, place: Path, precision: str, batch: int) -> None:
        """Build a small MobileNet."""
        from onnx_nets import mobile_net, reference

        from ofa_compile.compiler.build import compile_onnx

        path = mobile_net((batch, *SHAPE)).save(place / "net.onnx")
        target = target_in(self._target, precision)
        compiled = compile_onnx(
            path, target, place, symbol_prefix=PREFIX, network_meta=_meta(), cache=self._cache
        )
        x = np.random.default_rng(0).standard_normal((2 * batch, *SHAPE), dtype=np.float32)
        logits = np.concatenate([reference(path, x[:batch]), reference(path, x[batch:])])
        np.savez(place / ARRAYS, x=x, logits=logits)
        _write(place, {"steps": [step["symbol"] for step in compiled.steps]})

    def oddity(self, place: Path, name: str) -> None:
        """Build a network of one kernel that is not what a kernel should be."""
        from ofa_compile.compiler.gpu.backend import backend_of
        from ofa_compile.compiler.gpu.objects import pack_object
        from ofa_compile.compiler.gpu.source import KernelSource
        from ofa_compile.compiler.gpu.tables import emit_tables
        from ofa_compile.compiler.link import Linker, runtime_of
        from ofa_compile.compiler.plan import Plan, Ref, Step
        from ofa_compile.compiler.workload import Add
        from ofa_compile.hardware.toolchain import find_linker

        head = f'extern "C" __global__ void __launch_bounds__(1)\n{name}('
        head += "const float *__restrict__ x, float *__restrict__ y) {\n"
        text = f'#include "cuda_kernel.h"\n{head}{_ODDITIES[name]}}}\n'
        threads = (1, 1, 1)
        source = KernelSource(
            text, ("float32",) * 2, (), (True,) * 2, threads, threads, False, frozenset({"float32"})
        )
        backend = backend_of(self._target)
        kernel = place / f"{name:_<16}.o"
        kernel.write_bytes(pack_object(source, name, backend.compile(text, name)))
        plan = Plan((1, *SHAPE), (1, 4))
        output = plan.new_buffer(4)
        plan.steps.append(Step(Add(4), {}, (Ref("input"),), output, 1, 4))
        plan.output = output
        tables = emit_tables(plan, {name: kernel}, [name], "test", backend.toolkit())
        runtime = runtime_of(self._target.kind, self._target.platform)
        linker = Linker(find_linker(self._target), self._cache, runtime)
        network = linker.compile_network(tables.c_source, tables.weights, [kernel])
        linker.link(place, network, [kernel], PREFIX, _meta(4))
        np.savez(place / ARRAYS, x=np.zeros((1, *SHAPE), np.float32), logits=np.zeros(0))
        _write(place, {"steps": [name]})

    def kernels(self, place: Path, precision: str, name: str) -> None:
        """Build workloads at the edges of tiles, in several configurations each."""
        from cases import ALL

        assert set(ALL) == set(KERNELS)
        from ofa_compile.tuning.builder import BuilderPool
        from ofa_compile.tuning.gpu_program import CandidateNetworkLinker

        target = target_in(self._target, precision)
        linker = CandidateNetworkLinker(target)
        networks = []
        with (
            tempfile.TemporaryDirectory(prefix="ofa-kit-") as temporary,
            closing(BuilderPool(target, 1, Path(temporary))) as pool,
        ):
            for number, configs in enumerate(pool.describe(ALL[name])):
                work = ALL[name][number]
                count = _FEW_CONFIGURATIONS if self._is_quick else _CONFIGURATIONS
                job = Job(work, tuple(configs[:: -(-len(configs) // count)]))
                candidates = pool.submit(job).result().candidates
                folder = place / str(number)
                folder.mkdir(exist_ok=True)
                networks.append(
                    {
                        "place": folder.name,
                        "workload": f"{work} as {list(job.configs)}",
                        **_link(linker, candidates, folder),
                    }
                )
        _write(place, {"networks": networks})

    def subnets(self, place: Path, precision: str) -> None:
        """Build subnets of the search spaces with coarse weights, which pack well."""
        from gpu_prebuilt import build, gpu_subnets, networks, quick_subnets

        target = target_in(self._target, precision)
        chosen = quick_subnets() if self._is_quick else gpu_subnets()
        if not self._is_quick and precision != "fp32":
            chosen = {name: chosen[name] for name in _FEW_SUBNETS}
        for number, (name, architecture) in enumerate(chosen.items()):
            for batch in (1, BATCH) if number == 0 else (1,):
                build(place, name, architecture, batch, target)
        entries = [
            {**facts, "place": str(folder.relative_to(place))} for folder, facts in networks(place)
        ]
        for path in place.glob("*/*"):  # what other runtimes read
            if path.is_file():
                path.unlink()
        _write(place, {"networks": entries})


def _link(linker: Any, candidates: Sequence[BuiltCandidate], folder: Path) -> dict[str, Any]:
    errors = [candidate.error for candidate in candidates if candidate.error is not None]
    if errors:
        message = f"{len(errors)} of {len(candidates)} do not build: {errors[0]}"
        raise RuntimeError(message)
    network = linker.link(candidates, folder)
    shutil.copyfile(network.data, folder / ARRAYS)
    for path in folder.glob("*"):
        if path.name not in (ARRAYS, network.path.name):
            path.unlink()
    return {
        "outputs": network.outputs,
        "num_launches": network.num_launches,
        "is_tf32": network.is_tf32,
    }


def _meta(classes: int = 5) -> str:
    from ofa_compile.bundle.network_meta import render_network_meta
    from ofa_compile.bundle.preprocess import Preprocessing

    sizes = Preprocessing(height=SHAPE[1], width=SHAPE[2], mean=(0, 0, 0), std=(1, 1, 1))
    return render_network_meta(sizes, list("abcdefghij")[:classes])


def _write(place: Path, facts: Mapping[str, Any]) -> None:
    (place / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def build_all(kit: Kit) -> None:
    """Build everything that tests ask for."""
    for name in ("endless", "stray"):
        kit.oddity(name)
    for precision in PRECISIONS:
        print(f"{precision}: networks", flush=True)
        kit.network(precision)
        kit.network(precision, BATCH)
        for name in KERNELS:
            print(f"{precision}: {name}", flush=True)
            kit.kernels(precision, name)
        print(f"{precision}: subnets", flush=True)
        kit.subnets(precision)


def main() -> None:
    """Run the script."""
    for folder in ("tests/gpu", "tests/compiler", "benchmarks"):
        sys.path.insert(0, str(Path(__file__).parents[2] / folder))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--architectures", nargs="+", help="machine code for these alone")
    parser.add_argument("--quick", action="store_true", help="few and small subnets")
    parser.add_argument("--software", action="store_true", help="for the driver that uses the CPU")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    target = load_target("cuda")
    if options.architectures:
        chosen = tuple(options.architectures)
        toolchain = dataclasses.replace(target.toolchain, gpu_architectures=chosen)
        target = dataclasses.replace(target, toolchain=toolchain)
    with tempfile.TemporaryDirectory(prefix="ofa-kit-") as temporary:
        if options.software:
            from drivers import software_nvcc

            software_nvcc(Path(temporary))
            os.environ["CUDA_HOME"] = temporary
        build_all(Kit(folder, Builder(target, Cache(), is_quick=options.quick)))
    packed = folder.with_name(f"{folder.name}.tar.xz")
    with tarfile.open(packed, "w:xz", preset=9) as archive:
        archive.add(folder, ".")
    print(f"{packed}: {packed.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
