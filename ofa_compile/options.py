"""What each command can be asked: frozen option sets, one per verb (standard library only).

The command line fills them, the library's entry points take them, and a resolved run is stored
beside its results as `to_dict` gives it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

DEFAULT_SUPERNET = "ofa_mbv3_cifar"
DEFAULT_OUTPUT = Path("ofa-bundle")
WORKSPACE_ROOT = Path("ofa-workspace")


def default_workspace(target: str) -> Path:
    """Return the folder for a target's measurements: ``./ofa-workspace/<target>``."""
    return WORKSPACE_ROOT / Path(target).stem


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """Base: a JSON-ready view."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-ready data (paths as text)."""
        items = dataclasses.asdict(self).items()
        return {key: str(value) if isinstance(value, Path) else value for key, value in items}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupernetOptions(_Options):
    """Where the weights come from.

    Attributes
    ----------
    supernet
        Name of an embedded supernet, or the path of a checkpoint.
    space
        Search space, needed for a checkpoint that does not name its own.
    calibration_data
        Folder or archive of images for BN calibration; None uses what ships with the supernet.
    no_calibration
        Keep the running statistics of the checkpoint.
    seed
        Seed of every random choice.
    """

    supernet: str = DEFAULT_SUPERNET
    space: str | None = None
    calibration_data: Path | None = None
    no_calibration: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitOptions(_Options):
    """Limits for a search; None means no limit.

    Attributes
    ----------
    resolution
        Search only subnets of this input resolution.
    accuracy_predictor
        File of an accuracy predictor; None uses the one that ships with the search space.
    latency_predictor
        File of a latency predictor; None uses the workspace's, or else an estimate.
    workspace
        Folder of results; None means `default_workspace(target)`.
    """

    max_latency_ms: float | None = None
    max_macs: float | None = None
    max_parameters: float | None = None
    max_size_bytes: float | None = None
    max_activation_bytes: float | None = None
    resolution: int | None = None
    accuracy_predictor: Path | None = None
    latency_predictor: Path | None = None
    workspace: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileOptions(SupernetOptions, LimitOptions):
    """From a supernet to a verified bundle.

    Attributes
    ----------
    target
        Name of a hardware target, or the path of its TOML.
    output
        Folder the bundle is published as, replacing what is there.
    architecture
        JSON file of the architecture; None searches for one.
    verify
        Compare the binary with PyTorch and fail above the tolerance.
    accuracy_data
        Labelled images; the subnet's accuracy on the test part goes into the manifest.
    threads
        What the executable uses unless told otherwise; None for the target's cores.
    precision
        Of weights and maps: "fp32", "fp16", or "int8" after calibration. "tf32" is "fp32" whose
        convolutions, but depthwise ones, round what they multiply to ten bits, for tensor cores.
    batch
        Images of one run, whose latency the limits are about.
    """

    target: str
    precision: str = "fp32"
    output: Path = DEFAULT_OUTPUT
    architecture: Path | None = None
    verify: bool = True
    accuracy_data: Path | None = None
    threads: int | None = None
    batch: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(SupernetOptions):
    """One architecture to ONNX.

    Attributes
    ----------
    architecture
        JSON file; None takes the largest architecture of the space.
    resolution
        Input size, overriding the architecture's.
    """

    output: Path
    architecture: Path | None = None
    resolution: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions(LimitOptions):
    """The Pareto front of a space, or the best subnet under limits on one or several targets.

    Attributes
    ----------
    targets
        Each a name or file, perhaps with a limit: ``arm64=20ms``. The front is the first one's.
    family
        One subnet for each target, instead of one that meets all limits.
    latency_statistic
        What limits and front are about: the "median" of runs, or their 95th percentile, "p95".
    batch
        Images of one run, whose latency limits and front are about.
    verify_top, rounds
        Measure so many of the best on the target; with several rounds, refit the latency predictor
        on them and search again.
    supernet
        Weights of the verified subnets, which are compiled if there is an output folder; None for
        times alone.
    data, calibration_data
        Labelled images to measure accuracies on, and images for BN calibration.
    output
        Folder for ``front.json`` and one architecture file per member; None writes nothing.
    max_evaluations
        About how many architectures to score; None leaves it to the search.
    """

    targets: tuple[str, ...] = ("host",)
    space: str = DEFAULT_SUPERNET
    family: bool = False
    latency_statistic: Literal["median", "p95"] = "median"
    batch: int = 1
    max_evaluations: int | None = None
    verify_top: int = 0
    rounds: int = 1
    supernet: str | None = None
    data: Path | None = None
    calibration_data: Path | None = None
    output: Path | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneOptions(_Options):
    """Tune the workloads of a space for a target; a second run continues the first.

    Attributes
    ----------
    resolutions
        Input sizes; empty for all of the space's.
    architecture
        JSON file: tune only what this subnet needs.
    onnx
        ONNX file: tune what this network needs, instead of a space.
    budget_minutes, max_trials
        Stop after this time, or so many trials; None leaves both to the target file.
    precision
        As of `CompileOptions`; every precision has a database of its own.
    batch
        Images of one run, on GPUs.
    roofline_share
        A workload is tuned when it comes this close to what the core's peaks allow.
    output
        File that also receives the configurations that beat the defaults.
    dry_run
        Plan and forecast only.
    """

    target: str = "host"
    precision: str = "fp32"
    space: str = DEFAULT_SUPERNET
    resolutions: tuple[int, ...] = ()
    architecture: Path | None = None
    onnx: Path | None = None
    batch: int = 1
    budget_minutes: float | None = None
    max_trials: int | None = None
    roofline_share: float = 0.95
    output: Path | None = None
    workspace: Path | None = None
    dry_run: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions(_Options):
    """One HTML page about a search.

    Attributes
    ----------
    search
        Folder that `search` wrote.
    output
        The page.
    figures
        Folder for the same figures as CSV, PNG and SVG; None for none.
    space
        Search space, where the search found nothing that names it.
    """

    search: Path
    target: str = "host"
    output: Path = Path("report.html")
    figures: Path | None = None
    space: str = DEFAULT_SUPERNET
    workspace: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions(_Options):
    """Compile and time sampled subnets on a target; a second run continues the first.

    Attributes
    ----------
    count
        Subnets the data set shall hold at the end.
    architectures
        JSON files of the subnets to measure instead of sampled ones.
    resolution
        Measure only this resolution; None samples the space's.
    repeats
        How many of the first subnets to measure once more at the end.
    design
        Subnets that teach a predictor most, or uniformly drawn ones to test it on.
    batch
        Images of one run.
    cache_state
        Whether runs find weights and activations in the caches, or flushed out of them.
    build_only
        Build what is to be measured and stop: a second run then does nothing but measure.
    budget_minutes
        Start no further subnet after this time.
    estimate
        Count instructions in an emulator instead, and estimate cycles by a model of the core.
    precision
        As of `CompileOptions`; every precision has a workspace of its own.
    """

    target: str = "host"
    precision: str = "fp32"
    space: str = DEFAULT_SUPERNET
    count: int = 100
    architectures: tuple[Path, ...] = ()
    resolution: int | None = None
    repeats: int = 0
    design: Literal["informative", "uniform"] = "informative"
    threads: int = 1
    batch: int = 1
    cache_state: Literal["warm", "cold"] = "warm"
    build_only: bool = False
    budget_minutes: float | None = None
    estimate: bool = False
    workspace: Path | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitLatencyOptions(_Options):
    """A latency predictor from a latency data set.

    Attributes
    ----------
    precision
        As of `CompileOptions`; every precision has a workspace of its own.
    dataset
        JSON Lines file; None takes the workspace's.
    output
        Predictor to write; None writes into the workspace.
    threads, batch
        Use the records that were timed with this many threads, and images of one run.
    cache_state
        Use the records with warm, or with flushed caches.
    statistic
        Fit the "median" of each subnet's runs, or their 95th percentile, "p95".
    prior
        Fitted predictor of a similar target to start from.
    held_out
        How many of the last records to test on instead of fitting on them.
    """

    target: str = "host"
    precision: str = "fp32"
    space: str = DEFAULT_SUPERNET
    dataset: Path | None = None
    output: Path | None = None
    workspace: Path | None = None
    threads: int = 1
    batch: int = 1
    cache_state: Literal["warm", "cold"] = "warm"
    prior: Path | None = None
    held_out: int = 0
    statistic: Literal["median", "p95"] = "median"
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitAccuracyOptions(_Options):
    """An accuracy predictor from an accuracy data set, or converted from the authors' file.

    Attributes
    ----------
    dataset, authors_file
        One of the two: JSON Lines that `evaluate` wrote, or the authors' predictor.
    part
        Use the records of this part of the data: "held-out" or "test".
    study
        Also compare with other models, and over the number of subnets.
    """

    dataset: Path | None = None
    authors_file: Path | None = None
    output: Path
    space: str = DEFAULT_SUPERNET
    part: str = "held-out"
    study: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(_Options):
    """Train a supernet by progressive shrinking; a second run continues the first.

    Attributes
    ----------
    data
        Folder or archive of images, one folder per class under train/ and test/.
    output
        Folder for checkpoint, log and the final weights.
    recipe
        Name of a shipped recipe, or path of a TOML file.
    init
        Supernet to start from; None for fresh weights.
    max_steps
        Stop after this many steps of the schedule.
    threads
        Threads of PyTorch; None leaves them.
    device
        "cpu", "cuda", or "auto" for CUDA where there is a GPU.
    parts
        Parts of each batch; a multiple of the number of processes, which is the default.
    tensorboard
        Also write the log for TensorBoard.
    """

    data: Path
    output: Path
    space: str = DEFAULT_SUPERNET
    recipe: str = "cifar"
    init: str | None = None
    max_steps: int | None = None
    threads: int | None = None
    device: str = "auto"
    parts: int | None = None
    tensorboard: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneOptions(_Options):
    """Specialise one subnet on other images, then compile it.

    Attributes
    ----------
    data
        The user's images, one folder per class.
    architecture
        JSON file of the subnet.
    target
        Hardware target; None writes the ONNX file alone.
    output
        Folder of the bundle, or the ONNX file.
    epochs, batch_size, learning_rate, layer_decay
        As in `training.finetune.FinetuneConfig`.
    workspace
        Folder of the checkpoint that a second run continues.
    """

    data: Path
    architecture: Path
    target: str | None = None
    output: Path = DEFAULT_OUTPUT
    resolution: int | None = None
    epochs: float = 10.0
    batch_size: int = 32
    learning_rate: float = 0.02
    layer_decay: float = 0.85
    workspace: Path = Path("ofa-finetuning")
    supernet: str = DEFAULT_SUPERNET
    space: str | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(_Options):
    """Accuracy of one architecture, or of many sampled ones into a data set.

    Attributes
    ----------
    data
        Labelled images; training images among them calibrate batch norm.
    part
        "test" for the test images, "held-out" for training images that training left out.
    architecture
        JSON file; None samples `count` architectures.
    dataset
        JSON Lines file that sampled results are appended to, and that a second run continues.
    limit
        Use only so many images.
    held_out
        Training images that the training recipe held out.
    calibration_images, calibration_seed
        How many training images calibrate batch norm, and which.
    view
        How held-out images are turned, 0 to 3; `fit-accuracy` averages what several gave.
    design
        "spread" samples families over the whole range of sizes, "uniform" single subnets.
    shard
        Number of this process and how many there are: each evaluates its part of the subnets.
    """

    data: Path
    supernet: str = DEFAULT_SUPERNET
    space: str | None = None
    part: str = "held-out"
    architecture: Path | None = None
    count: int = 100
    resolution: int | None = None
    dataset: Path = Path("accuracy.jsonl")
    limit: int | None = None
    held_out: int = 5000
    calibration_images: int = 500
    calibration_seed: int = 0
    view: int = 0
    design: str = "spread"
    shard: tuple[int, int] = (0, 1)
    seed: int = 0
