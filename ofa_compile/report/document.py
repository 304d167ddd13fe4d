"""What a report says, as plain JSON values: the page and the figure files show nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from ofa_compile.errors import ArtifactError
from ofa_compile.hardware.nvml import COVERS
from ofa_compile.hardware.target_spec import CoreSpec, TargetSpec
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.space import Architecture, SearchSpace
from ofa_compile.space.layer_spec import LayerSpec

_LABELS = {
    "macs": "MACs",
    "num_parameters": "parameters",
    "size_bytes": "bytes of weights",
    "activation_bytes": "bytes of activations",
}
# What a predictor fitted on measurements says is a prediction.
_KINDS = {"measurement": "prediction", "estimate": "estimate"}


def build_document(
    front: Mapping[str, Any],
    space: SearchSpace,
    target: TargetSpec,
    *,
    verification: Mapping[str, Any] | None = None,
    latency_pairs: Sequence[Mapping[str, Any]] = (),
    energies: Sequence[Mapping[str, Any]] = (),
    learning_curves: Sequence[Mapping[str, Any]] = (),
    tuning: Sequence[Mapping[str, Any]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Put together everything that is known.

    Parameters
    ----------
    front
        What `search` wrote as ``front.json``; its front may be empty.
    space, target
        What was searched, and the target that blocks not measured are estimated for.
    verification
        What `search --verify-top` wrote as ``verification.json``.
    latency_pairs
        Predicted and measured latencies of measured subnets, from predictors that had not seen
        them: predicted_ms, measured_ms, relative_std, is_winner.
    energies
        hash, resolution, batch, measured_ms and energy_mj (of an inference) of measured subnets.
    learning_curves
        name, x_label, y_label, x and y of each.
    tuning
        workload, default_us, best_us, gain and roofline_share of each tuned workload.
    provenance
        What else a reader needs to judge the figures.

    Raises
    ------
    ArtifactError
        If the front is not what `search` writes.
    """
    try:
        checked = (verification or {}).get("verified", ())
        blocks = _Blocks(space, target, checked)
        marks = {_key(front[name]): name for name in ("knee", "best") if front.get(name)}
        members = front["front"]
        points = [_point(member, str(front["cost"]), marks, blocks) for member in members]
        verified = [_verified(item) for item in checked]
        cost_label = _cost_label(str(front["cost"]), members)
    except (KeyError, TypeError, AttributeError) as error:
        message = f"this is not the result of a search: {error!r}"
        raise ArtifactError(message, hint="give the folder of `ofa-compile search --output`") from (
            error
        )
    return {
        "title": f"{space.name} on {target.name}",
        "space": space.name,
        "target": target.name,
        "cost_label": cost_label,
        "cost_is_latency": str(front["cost"]).startswith("latency_ms"),
        "estimate_limits": str(front.get("estimate_limits", "")),
        "points": points,
        "blocks": blocks.listed,
        "verified": verified,
        "latency_pairs": [*latency_pairs, *_winners(verified)],
        "energies": list(energies),
        "energy_covers": COVERS if energies else "",
        "learning_curves": list(learning_curves),
        "tuning": list(tuning),
        "provenance": {
            "target fingerprint": target.fingerprint,
            "candidates scored": front.get("num_evaluated"),
            "search seconds": front.get("seconds"),
            "rounds": (verification or {}).get("rounds", []),
            **(provenance or {}),
        },
    }


class _Blocks:
    """The different blocks of all points, each listed once with its time.

    A block that was measured in some verified subnet has the median over those, the others an
    estimate. Its label says all that the time depends on.
    """

    def __init__(
        self, space: SearchSpace, target: TargetSpec, verified: Sequence[Mapping[str, Any]]
    ) -> None:
        self._space, self._core = space, target.core
        self._estimator = LatencyEstimator(target)
        self._measured = self._measured_ms(verified)
        self._places: dict[str, int] = {}
        self.listed: list[dict[str, Any]] = []

    def of(self, architecture: Architecture) -> list[int]:
        """Return the places of an architecture's blocks."""
        return [self._place(layers) for layers in self._grouped(architecture).values()]

    def roofline_share(self, architecture: Architecture, places: Sequence[int]) -> float:
        """Return the share of the arithmetic peak that its blocks reach together."""
        ms = sum(self.listed[place]["ms"] for place in places)
        return float(_peak_ms(self._space.layers(architecture), self._core) / ms)

    def _grouped(self, architecture: Architecture) -> dict[tuple[int, int], list[LayerSpec]]:
        layers = self._space.layers(architecture)
        grouped = groupby(layers, key=lambda layer: (layer.stage, layer.block))
        return {key: list(group) for key, group in grouped}

    def _measured_ms(self, verified: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the median measured time of each block's label."""
        found: dict[str, list[float]] = {}
        for item in verified:
            times = {
                (t["stage"], t["block"]): t["ms"] for t in item["measured"].get("blocks") or ()
            }
            architecture = Architecture.from_dict(dict(item["predicted"]["architecture"]))
            for key, layers in self._grouped(architecture).items() if times else ():
                found.setdefault(describe_block(layers)["label"], []).append(float(times[key]))
        return {label: median(times) for label, times in found.items()}

    def _place(self, layers: Sequence[LayerSpec]) -> int:
        facts = describe_block(layers)
        place = self._places.get(facts["label"])
        if place is None:
            place = self._places[facts["label"]] = len(self.listed)
            measured = self._measured.get(facts["label"])
            estimate = sum(self._estimator.layer_ms(layer) for layer in layers)
            ms = estimate if measured is None else measured
            self.listed.append(
                {
                    **facts,
                    "ms": ms,
                    "kind": "estimate" if measured is None else "measurement",
                    "roofline_share": _peak_ms(layers, self._core) / ms,
                }
            )
        return place


def _peak_ms(layers: Sequence[LayerSpec], core: CoreSpec) -> float:
    """Return the time of the multiply-adds at the core's arithmetic peak."""
    per_second = core.fma_per_cycle * core.vector_bits / 32 * core.frequency_hz
    return 1e3 * sum(layer.macs for layer in layers) / per_second


def describe_block(layers: Sequence[LayerSpec]) -> dict[str, Any]:
    """Return what a block looks like, and a label that says it all."""
    first, last = layers[0], layers[-1]
    spatial = next(
        (x for x in layers if x.kind in ("depthwise", "conv") and x.kernel_size > 1), first
    )
    name = "Stem" if first.stage < 0 else f"{first.stage + 1}.{first.block + 1}"
    if any(layer.kind == "linear" for layer in layers):
        name = "Head"
    has_squeeze = any(layer.kind == "squeeze_excite" for layer in layers)
    kind = f"{spatial.kernel_size}×{spatial.kernel_size}"
    kind += f" /{spatial.stride}" if spatial.stride > 1 else ""
    kind += " SE" if has_squeeze else ""
    channels = [first.in_channels, spatial.out_channels, last.out_channels]
    shape = f"{kind}, {'→'.join(map(str, channels))}, {first.in_size} px"
    return {
        "name": name,
        "what": kind,
        "channels": channels,
        "pixels": first.in_size,
        "label": f"{name}: {shape}",
    }


def _point(
    member: Mapping[str, Any], cost: str, marks: Mapping[str, str], blocks: _Blocks
) -> dict[str, Any]:
    architecture = Architecture.from_dict(dict(member["architecture"]))
    places = blocks.of(architecture)
    is_latency = cost.startswith("latency_ms")
    latency: Mapping[str, Any] = next(iter(member["latencies"].values()), {})
    return {
        "hash": architecture.short_hash,
        "architecture": architecture.to_dict(),
        "accuracy": member["accuracy"],
        "accuracy_std": member.get("accuracy_std"),
        "cost": member["latency_ms"] if is_latency else member[cost],
        "cost_std": latency.get("relative_std") if is_latency else 0.0,
        "images_per_s": latency.get("images_per_s"),
        "images_per_s_kind": _KINDS.get(latency.get("kind", ""), "none"),
        "macs": member["macs"],
        "num_parameters": member["num_parameters"],
        "size_bytes": member["size_bytes"],
        "mark": marks.get(_key(member), ""),
        "blocks": places,
        "roofline_share": blocks.roofline_share(architecture, places),
    }


def _verified(item: Mapping[str, Any]) -> dict[str, Any]:
    predicted, measured = item["predicted"], item["measured"]
    latency: Mapping[str, Any] = next(iter(predicted["latencies"].values()), {})
    return {
        "hash": Architecture.from_dict(dict(predicted["architecture"])).short_hash,
        "accuracy": predicted["accuracy"],
        "measured_accuracy": measured["accuracy"],
        "predicted_ms": predicted["latency_ms"],
        "predicted_kind": _KINDS.get(predicted["latency_kind"], "none"),
        "predicted_std": latency.get("relative_std"),
        "measured_ms": measured["latency_ms"],
        "p95_ms": measured["p95_ms"],
        "images_per_s": measured.get("images_per_s"),
        "energy_mj": measured.get("energy_mj"),
        "meets_limit": item["meets_limit"],
    }


def _winners(verified: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "predicted_ms": item["predicted_ms"],
            "measured_ms": item["measured_ms"],
            "relative_std": item["predicted_std"],
            "is_winner": True,
        }
        for item in verified
        if item["predicted_ms"] is not None
    ]


def _cost_label(cost: str, members: Sequence[Mapping[str, Any]]) -> str:
    if not cost.startswith("latency_ms"):
        return _LABELS.get(cost, cost)
    latency = next(iter(members[0]["latencies"].values())) if members else {}
    statistic = "" if latency.get("statistic") in (None, "median") else f"{latency['statistic']} "
    batch = latency.get("batch", 1)
    of = "" if batch == 1 else f" of {batch} images"
    return f"{statistic}latency{of}, ms ({_KINDS.get(latency.get('kind', ''), 'none')})"


def _key(member: Mapping[str, Any]) -> str:
    return Architecture.from_dict(dict(member["architecture"])).hash
