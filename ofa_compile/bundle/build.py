"""From an ONNX file to a published, verified bundle."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.resources
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.bundle import Bundle
from ofa_compile.bundle.executor import (
    Executable,
    check_runnable,
    emulator_command,
    is_native,
)
from ofa_compile.bundle.manifest import (
    HEADER_NAME,
    LABELS_NAME,
    MANIFEST_NAME,
    ONNX_NAME,
    Figure,
    Manifest,
    check_labels,
    content_files,
    describe_target,
    hash_file,
)
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.publish import publish, resolve_output, staging_folder
from ofa_compile.bundle.quantised import quantised_reference
from ofa_compile.bundle.verify import Reference, VerificationResult, tolerance_of, verify
from ofa_compile.compiler.workload import Separable
from ofa_compile.errors import UserInputError
from ofa_compile.hardware.board_address import is_on_board
from ofa_compile.hardware.emulator import shown
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker

if TYPE_CHECKING:
    from ofa_compile.cache import Cache
    from ofa_compile.compiler.build import CompiledNetwork, Progress
    from ofa_compile.compiler.int8.prepare import Calibration
    from ofa_compile.space.architecture import Architecture

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Maps inputs (N, 3, H, W) to logits (N, classes)."""

_TOOLS = ("ofa-compile", "apache-tvm", "apache-tvm-ffi", "torch", "onnx", "numpy")


@dataclass(frozen=True, kw_only=True)
class BundleContents:
    """What a bundle says besides what the compiler finds out.

    Attributes
    ----------
    preprocessing
        From an image to the input; its size must be the network's.
    labels
        One per class, or empty for "class 0" and so on.
    architecture
        Of the subnet; None for a network that came as an ONNX file.
    supernet
        Where the weights come from: at least "name" and "weights_hash".
    network
        Exact facts, such as "macs" and "parameters".
    figures
        Numbers that are predicted, estimated or measured.
    threads
        What the executable uses unless told otherwise, the target's cores if None; the library
        starts with one.
    """

    preprocessing: Preprocessing
    labels: Sequence[str] = ()
    architecture: Architecture | None = None
    supernet: Mapping[str, Any] | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    threads: int | None = None


def build_bundle(
    onnx_path: str | Path,
    target: TargetSpec,
    output: str | Path,
    contents: BundleContents,
    *,
    reference: Reference | None,
    cache: Cache | None = None,
    tuned: dict[str, dict[str, Any]] | None = None,
    progress: Progress | None = None,
    calibration: Calibration | None = None,
    measure_binary: Callable[[Run], Mapping[str, Figure]] | None = None,
) -> Bundle:
    """Compile a network, verify the binary and publish it as a folder, all or nothing.

    The same inputs give byte-identical bundles.

    Parameters
    ----------
    onnx_path
        Network to compile.
    target
        Hardware target.
    output
        Folder to publish; an older bundle there is replaced in one step.
    contents
        Preprocessing, labels, figures.
    reference
        What to verify against; None publishes an unverified bundle, and the manifest says so.
        A quantised network is verified against a reference of its own on the same inputs, and the
        manifest states how far it is from this one.
    cache, tuned, progress, calibration
        As for `compile_onnx`.
    measure_binary
        Gets the executable as a function from inputs to logits, and returns figures for the
        manifest. Not called where an emulator runs it, which would take hours.

    Raises
    ------
    UserInputError
        If the output folder cannot be used, or labels or sizes do not fit the network.
    CompilationError, MissingDependencyError
        If the network cannot be compiled here.
    NumericMismatchError
        If the binary's logits differ from the reference; nothing is published then.
    """
    onnx_path, folder = Path(onnx_path), resolve_output(Path(output))
    if reference is not None:
        # Found out before minutes of compiling, not after.
        check_runnable(describe_target(target))
    prefix = symbol_prefix(onnx_path, contents.architecture)
    with staging_folder(folder) as staging:
        from ofa_compile.compiler.build import compile_onnx

        compiled = compile_onnx(
            onnx_path,
            target,
            staging,
            symbol_prefix=prefix,
            network_meta=render_network_meta(
                contents.preprocessing,
                contents.labels,
                contents.threads or _default_threads(target),
            ),
            cache=cache,
            tuned=tuned,
            progress=progress,
            calibration=calibration,
        )
        manifest = _manifest(compiled, target, contents, prefix)
        if target.precision == "int8" and calibration is not None:
            quantisation = {"layers": compiled.layers, "calibration": calibration.what}
            if reference is not None:
                reference, change = quantised_reference(
                    onnx_path, target, calibration, reference, cache
                )
                quantisation |= change
            manifest = dataclasses.replace(manifest, quantisation=quantisation)
        _write_files(staging, onnx_path, manifest)
        manifest = _verified(manifest, staging, reference)
        if measure_binary is not None and is_native(manifest.target):
            path = staging / manifest.platform.executable
            executable = Executable(path, manifest.output_shape[1])
            figures = {**manifest.figures, **measure_binary(executable.run)}
            manifest = dataclasses.replace(manifest, figures=figures)
        (staging / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        publish(staging, folder)
    return Bundle(folder, manifest)


def symbol_prefix(onnx_path: Path, architecture: Architecture | None) -> str:
    """Return the start of the exported names: of the architecture's hash, or the file's."""
    if architecture is not None:
        return f"ofa_{architecture.hash[:12]}_"
    try:
        digest = hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    except OSError as error:
        msg = f"cannot read {onnx_path}: {error.strerror}"
        raise UserInputError(msg) from error
    return f"ofa_{digest[:12]}_"


def _manifest(
    compiled: CompiledNetwork, target: TargetSpec, contents: BundleContents, prefix: str
) -> Manifest:
    preprocessing = contents.preprocessing
    size = (preprocessing.height, preprocessing.width)
    if tuple(compiled.input_shape[1:]) != (3, *size):
        shape = compiled.input_shape
        msg = f"preprocessing is for 3x{size[0]}x{size[1]} but the network's input is {shape}"
        raise UserInputError(msg)
    architecture = contents.architecture
    facts: dict[str, Any] = {
        "weights_bytes": compiled.weights_bytes,
        "arena_bytes": compiled.arena_bytes,
        "num_kernel_calls": len(compiled.steps),
        "num_tuned_kernel_calls": compiled.num_tuned,
    }
    joined = {s["key"] for s in compiled.steps if s["workload"]["kind"] == Separable.kind}
    if joined:
        facts["separable_kernels"] = sorted(joined)
    return Manifest(
        input_shape=tuple(compiled.input_shape),
        output_shape=tuple(compiled.output_shape),
        preprocessing=preprocessing,
        labels=check_labels(contents.labels, compiled.output_shape[1]),
        symbol_prefix=prefix,
        target=describe_target(target),
        architecture=None if architecture is None else json.loads(architecture.to_json()),
        architecture_hash=None if architecture is None else architecture.hash,
        supernet=contents.supernet,
        precision=target.precision,
        network={**contents.network, **facts},
        figures=contents.figures,
        versions=tool_versions(target),
    )


def _default_threads(target: TargetSpec) -> int:
    """Return the processor's cores; a GPU brings its own threads."""
    return target.core.cores if target.kind == "llvm" else 1


def tool_versions(target: TargetSpec) -> dict[str, str]:
    """Return the versions of what took part, without importing any of it."""
    versions = {"linker": find_linker(target).version()}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _write_files(staging: Path, onnx_path: Path, manifest: Manifest) -> None:
    """Write what the compiler does not: header, ONNX file and labels."""
    try:
        template = importlib.resources.files("ofa_compile.runtime") / "subnet_template.h"
        header = template.read_text(encoding="utf-8").replace("@PREFIX@", manifest.symbol_prefix)
        (staging / HEADER_NAME).write_text(header, encoding="utf-8")
        shutil.copyfile(onnx_path, staging / ONNX_NAME)
        labels = "".join(f"{label}\n" for label in manifest.labels)
        (staging / LABELS_NAME).write_text(labels, encoding="utf-8")
    except OSError as error:
        msg = f"cannot write to {staging}: {error.strerror}"
        raise UserInputError(msg) from error


def _verified(manifest: Manifest, staging: Path, reference: Reference | None) -> Manifest:
    """Return the manifest with file hashes and the outcome of verification."""
    verification: dict[str, Any] = {"verified": False, "reason": "verification was switched off"}
    # Neither hashing nor running what was built holds the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        names = content_files(manifest.platform)
        hashes = pool.map(lambda name: hash_file(staging / name), names)
        if reference is not None:
            verification = _verify(manifest, staging, reference, pool)
        files = dict(zip(names, hashes, strict=True))
    return dataclasses.replace(manifest, files=files, verification=verification)


def _verify(
    manifest: Manifest, staging: Path, reference: Reference, pool: ThreadPoolExecutor
) -> dict[str, Any]:
    """Check the executable, and the library where this machine can load it; keep the worst."""
    platform = manifest.platform
    checks = {platform.program: pool.submit(_verify_program, manifest, staging, reference)}
    if is_native(manifest.target):
        checks[platform.library] = pool.submit(_verify_library, manifest, staging, reference)
    worst = max((job.result()[0] for job in checks.values()), key=lambda r: r.max_abs_error)
    return {
        **worst.to_dict(),
        "files": sorted(checks),
        "input_kind": reference.input_kind,
        "runner": checks[platform.program].result()[1],
    }


def _verify_program(
    manifest: Manifest, staging: Path, reference: Reference
) -> tuple[VerificationResult, str]:
    """Check the executable, wherever it runs; return what ran it as well."""
    path, classes = staging / manifest.platform.executable, manifest.output_shape[1]
    if is_on_board(manifest.target):
        from ofa_compile.remote.program import board_program

        with board_program(manifest.target, path, classes) as program:
            return _compare(program.run, manifest, reference), f"board {program.board.model}"
    command = emulator_command(manifest.target)
    executable = Executable(path, classes, command)
    return _compare(executable.run, manifest, reference), _runner_words(manifest)


def _verify_library(
    manifest: Manifest, staging: Path, reference: Reference
) -> tuple[VerificationResult, str]:
    with NativeLibrary(staging / manifest.platform.library, manifest.symbol_prefix) as library:
        return _compare(library.run, manifest, reference), "native"


def _compare(run: Run, manifest: Manifest, reference: Reference) -> VerificationResult:
    return verify(run, reference.inputs, reference.logits, tolerance_of(manifest.precision))


def _runner_words(manifest: Manifest) -> str:
    """Say what ran the executable: which emulator, as which processor where it was told one."""
    if is_native(manifest.target):
        return "native"
    kind = "engine" if manifest.platform.is_hosted else "emulator"
    return f"{kind} {shown(manifest.target['emulator'])}"
