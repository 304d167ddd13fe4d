"""Training recipes: TOML files with closed keys, checked on reading."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ofa_compile.errors import ConfigError, closest_match

__all__ = ["ELASTIC_DIMENSIONS", "Phase", "Recipe", "list_recipes", "load_recipe"]

ELASTIC_DIMENSIONS = ("kernel_size", "depth", "expand_ratio", "width")
_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of progressive shrinking.

    Attributes
    ----------
    name
        Appears in the log.
    epochs
        Length in passes over the training images.
    resolutions
        Drawn from per step and subnet; repeat a value to draw it more often. Empty: all of the
        space's.
    elastic
        Dimensions that vary, of `ELASTIC_DIMENSIONS`; none trains the largest network alone.
    random_subnets
        Random subnets per step, besides the phase's smallest.
    distillation_ratio
        Share of the subnets' loss that comes from the largest network's logits.
    student_weight
        Weight of each subnet's loss beside the largest network's.
    own_batches
        Give each subnet of a step a batch of its own instead of the same images: its gradients
        then tell the shared weights more. The largest network's logits are of other images, so
        nothing can be distilled from them.
    sort_channels
        Sort channels by importance before the first step.
    sampling
        "sandwich": largest, smallest and random subnets in every step; "random": only those.
    teacher
        "largest": the largest network of the same step; "fixed": the largest network as it was
        before the first phase with a fixed teacher.
    depth_choices, expand_ratio_choices, kernel_size_choices
        How many of the largest values an elastic dimension takes; 0 for all.
    learning_rate, warmup_epochs
        Peak and warm-up of a cosine schedule of the phase's own; 0 for the recipe's schedule.
    """

    name: str
    epochs: float
    resolutions: tuple[int, ...] = ()
    elastic: tuple[str, ...] = ()
    random_subnets: int = 0
    distillation_ratio: float = 0.0
    student_weight: float = 1.0
    own_batches: bool = False
    sort_channels: bool = False
    sampling: str = "sandwich"
    teacher: str = "largest"
    depth_choices: int = 0
    expand_ratio_choices: int = 0
    kernel_size_choices: int = 0
    learning_rate: float = 0.0
    warmup_epochs: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a training run but the data and the space.

    Attributes
    ----------
    phases
        In order.
    batch_size
        Images per step.
    held_out
        Training images kept back.
    learning_rate, final_learning_rate, warmup_steps
        Linear warm-up to the peak, then a cosine to the final rate at the last step.
    momentum, weight_decay, label_smoothing, max_gradient_norm
        Of SGD with Nesterov momentum and its loss.
    precision
        "float32", or "bfloat16" for mixed precision.
    ema_decay
        Of an exponential average of the weights that the run ends with; 0 for none.
    dropout
        Before the classifier.
    augmentation
        "pad-crop" or "resized-crop" (a random part, scaled); both flip half of the images.
    brightness, saturation
        Spread of the random factors on the images' brightness and colour; 0 leaves them.
    """

    phases: tuple[Phase, ...]
    batch_size: int = 64
    held_out: int = 5000
    learning_rate: float = 0.05
    final_learning_rate: float = 0.0
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    max_gradient_norm: float = math.inf
    precision: str = "float32"
    ema_decay: float = 0.0
    dropout: float = 0.0
    augmentation: str = "pad-crop"
    brightness: float = 0.0
    saturation: float = 0.0


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    folder = files("ofa_compile.training.recipes")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    source
        Name of a shipped recipe, or path of a TOML file.

    Returns
    -------
    The checked recipe.

    Raises
    ------
    ConfigError
        If there is no such recipe, or it is malformed: the message names file, key and value.
    """
    path = Path(source)
    if isinstance(source, str) and source in list_recipes():
        text = (files("ofa_compile.training.recipes") / f"{source}.toml").read_text("utf-8")
    elif path.is_file():
        text = path.read_text("utf-8")
    else:
        known = list_recipes()
        near = closest_match(str(source), known)
        message = f"no recipe {str(source)!r}; shipped ones: {', '.join(known)}"
        raise ConfigError(message, hint=f"Did you mean {near!r}?" if near else None)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        message = f"{source}: not valid TOML: {err}"
        raise ConfigError(message) from err
    return parse_recipe(table, str(source))


def parse_recipe(table: dict[str, Any], where: str) -> Recipe:
    """Check a recipe's parsed TOML; `where` names it in messages."""
    table = dict(table)
    version = table.pop("schema_version", None)
    if version != _SCHEMA_VERSION:
        message = f"{where}: schema_version is {version!r}, this version reads {_SCHEMA_VERSION}"
        raise ConfigError(message)
    phases = table.pop("phases", None)
    if not isinstance(phases, list) or not phases:
        message = f"{where}: phases must be a list of one or more tables [[phases]]"
        raise ConfigError(message)
    parsed = tuple(
        Phase(**_checked(Phase, phase, f"{where}: phases[{i}]")) for i, phase in enumerate(phases)
    )
    for i, phase in enumerate(parsed):
        for name in phase.elastic:
            if name not in ELASTIC_DIMENSIONS:
                allowed = ", ".join(ELASTIC_DIMENSIONS)
                message = f"{where}: phases[{i}].elastic has {name!r}; allowed: {allowed}"
                raise ConfigError(message)
        if phase.sampling == "random" and phase.elastic and phase.random_subnets == 0:
            message = f"{where}: phases[{i}] samples at random but random_subnets is 0"
            raise ConfigError(message)
        if phase.own_batches and phase.teacher == "largest" and phase.distillation_ratio > 0.0:
            message = (
                f"{where}: phases[{i}] has own_batches and distillation_ratio "
                f"{phase.distillation_ratio}: the largest network sees other images"
            )
            hint = 'Set distillation_ratio = 0.0, or teacher = "fixed".'
            raise ConfigError(message, hint=hint)
    return Recipe(**_checked(Recipe, table, where), phases=parsed)


# Bounds of every number: (lowest, highest, lowest allowed itself).
_BOUNDS: dict[str, tuple[float, float]] = {
    "epochs": (0.0, 1e6),
    "random_subnets": (0, 64),
    "distillation_ratio": (0.0, 1.0),
    "student_weight": (0.0, 100.0),
    "batch_size": (2, 65536),
    "held_out": (0, 10**9),
    "learning_rate": (0.0, 100.0),
    "final_learning_rate": (0.0, 100.0),
    "warmup_steps": (0, 10**9),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 1.0),
    "label_smoothing": (0.0, 0.9999),
    "max_gradient_norm": (1e-9, math.inf),
    "ema_decay": (0.0, 0.999999),
    "dropout": (0.0, 0.9),
    "brightness": (0.0, 1.0),
    "saturation": (0.0, 1.0),
    "warmup_epochs": (0.0, 1e6),
    "depth_choices": (0, 16),
    "expand_ratio_choices": (0, 16),
    "kernel_size_choices": (0, 16),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("float32", "bfloat16"),
    "augmentation": ("pad-crop", "resized-crop"),
    "sampling": ("sandwich", "random"),
    "teacher": ("largest", "fixed"),
}


def _checked(cls: type[Phase | Recipe], table: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the table's values with their types and ranges checked against `cls`."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name != "phases"}
    values = {}
    for key, value in table.items():
        if key not in fields:
            near = closest_match(key, fields)
            message = f"{where}: unknown key {key!r}; allowed: {', '.join(fields)}"
            raise ConfigError(message, hint=f"Did you mean {near!r}?" if near else None)
        values[key] = _value(str(fields[key].type), key, value, where)
    for name, spec in fields.items():
        if spec.default is dataclasses.MISSING and name not in values:
            message = f"{where}: key {name!r} is missing"
            raise ConfigError(message)
    return values


def _value(kind: str, key: str, value: Any, where: str) -> Any:
    """Check and convert one value of declared type `kind`."""
    item = {"tuple[int, ...]": int, "tuple[str, ...]": str}.get(kind)
    if item is not None:
        if isinstance(value, list) and all(type(v) is item for v in value):
            return tuple(value)
        message = f"{where}: {key} must be a list of {item.__name__}, not {value!r}"
        raise ConfigError(message)
    allowed: dict[str, tuple[type, ...]] = {
        "str": (str,), "bool": (bool,), "int": (int,), "float": (int, float),
    }  # fmt: skip
    if type(value) not in allowed[kind]:
        message = f"{where}: {key} must be of type {kind}, not {value!r}"
        raise ConfigError(message)
    if key in _BOUNDS:
        low, high = _BOUNDS[key]
        if not low <= value <= high:
            message = f"{where}: {key} is {value!r}; allowed: {low} to {high}"
            raise ConfigError(message)
    if key in _CHOICES and value not in _CHOICES[key]:
        message = f"{where}: {key} is {value!r}; allowed: {', '.join(_CHOICES[key])}"
        raise ConfigError(message)
    return float(value) if kind == "float" else value
