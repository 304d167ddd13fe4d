"""A run of the GPU benchmark on the machine with the GPU: what it does, in the order of its worth.

The facts of the device first, then whether ours computes correctly, then the device's limits, then
times. Every result is written as soon as it is there, and no runtime's failure ends the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from common import provenance, say
from gpu_peer_files import why_absent
from gpu_peers import OutOfTimeError, Peer, PeerError, TimeLimits, rounds
from gpu_prebuilt import ARCHIVE, networks, unpack
from gpu_report import name_of, row_text, summary, summary_table
from gpu_runtimes import OURS, precision_of, runtimes_for
from gpu_shares import join_limits, step_shares
from gpu_warm import warm

from ofa_compile.atomic_file import replacing
from ofa_compile.bundle.verify import tolerance_of

ENERGY_S = 0.5
# Winograd's and Fourier's ways to convolve, which cuDNN may take, are less exact than sums.
PEERS_TOLERANCE = 1e-3
# Of the time for an answer: verifying takes seconds, and if ours hangs, all others are to be run.
CHECK_SHARE = 1 / 3
_NETWORK_KEYS = ("subnet", "precision", "batch")

Document = dict[str, Any]
Network = tuple[Path, Mapping[str, Any]]


class Run:
    """A run on the machine with the GPU: its document, which is kept after every step.

    Parameters
    ----------
    folder
        What was built.
    options
        Of the script.
    limits
        How long it may take.
    """

    def __init__(self, folder: Path, options: argparse.Namespace, limits: TimeLimits) -> None:
        self.networks: list[Network] = networks(folder)
        self.folder, self.options, self.limits = folder, options, limits
        archive = json.loads((folder / ARCHIVE).read_text(encoding="utf-8"))
        former: Document = {}
        if options.resume and options.output and options.output.is_file():
            former = json.loads(options.output.read_text(encoding="utf-8"))
        self.kind = str(archive["kind"])
        self.archive = archive
        self.document: Document = {
            "archive": archive,
            "checks": [item for item in former.get("checks", []) if item["is_right"]],
            "networks": [item for item in former.get("networks", []) if _is_done(item)],
        }

    def keep(self, **entries: Any) -> None:
        """Add entries to the document, and write it: whatever ends the run now, they are there."""
        self.document |= entries
        if self.options.output:
            text = json.dumps(
                {**self.document, "provenance": provenance()}, indent=1, sort_keys=True
            )
            self.options.output.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.options.output) as path:
                path.write_text(text + "\n", encoding="utf-8")

    def left_to_do(self, done: Sequence[Mapping[str, Any]]) -> list[Network]:
        """Return the networks that are not among results."""
        known = {_key(item) for item in done}
        return [network for network in self.networks if _key(network[1]) not in known]

    def why_not(self, name: str, facts: Mapping[str, Any]) -> str | None:
        """Return why a runtime need not be tried on a network, if so."""
        if name != OURS:
            return why_absent(self.archive["absent"], name, facts)
        checks = {_key(item): item for item in self.document["checks"]}
        failure: str | None = checks.get(_key(facts), {}).get("error")
        return failure

    def say(self, text: str) -> None:
        """Print for people."""
        say(self.options, text)


def _key(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(item[name] for name in _NETWORK_KEYS)


def _is_done(result: Mapping[str, Any]) -> bool:
    """Whether a network need not be run again: nothing was cut off, and ours was timed."""
    return result["is_complete"] and _is_timed(result)


def _is_timed(result: Mapping[str, Any]) -> bool:
    """Whether ours was, unless the time ended."""
    return not result["is_complete"] or "device_ms" in result["runtimes"][OURS]


def describe_device(run: Run, ours: Peer) -> None:
    """Write and print what the device and its machine are."""
    try:
        facts = ours.ask("facts", kind=run.kind)
    except PeerError as error:
        facts = {"error": str(error)}
    run.keep(machine=facts)
    for name, value in facts.items():
        run.say(f"{name}: {'; '.join(value) if isinstance(value, list) else value}")


def check_ours(run: Run, ours: Peer) -> None:
    """Verify ours on all networks, each written and printed at once."""
    checks = run.document["checks"]
    for place, facts in run.left_to_do(checks):
        result: Document = {name: facts[name] for name in _NETWORK_KEYS}
        try:
            result |= load(ours, place, facts, share=CHECK_SHARE)
            turn = ours.ask("turn", share=CHECK_SHARE, what="device_ms", seconds=0.0)
            result |= {"is_right": True, "device_ms": min(turn["ms"])}
            text = f"right (error {result['largest_error']:.1e}), {result['device_ms']:.3f} ms"
            ours.ask("close")
        except OutOfTimeError:
            break
        except PeerError as error:
            result |= {"is_right": False, "error": str(error)}
            text = f"FAILED: {error}"
        checks.append(result)
        run.keep()
        run.say(f"{name_of(facts)}: {text}")


def load(
    peer: Peer, place: Path, facts: Mapping[str, Any], *, share: float = 1.0
) -> dict[str, float]:
    """Have a runtime load a network, and return its error.

    Raises
    ------
    PeerError
        If it cannot, or computes something else than PyTorch does.
    """
    error = peer.ask("load", share=share, place=str(place))["largest_error"]
    precision = precision_of(peer.name, facts)
    allowed = tolerance_of(precision)
    if precision == "fp32" and peer.name != OURS:
        allowed = PEERS_TOLERANCE
    if not error <= allowed:
        message = f"differs from PyTorch on a processor by {error:.2g} of the largest logit"
        raise PeerError(message)
    return {"largest_error": error}


def measure_limits(run: Run, peers: Mapping[str, Peer]) -> None:
    """Measure what the device can do, by our kernels and PyTorch's."""
    found: Document = {}
    torch = [name for name in peers if name.startswith("torch")]
    for way, name in (("ours", OURS), *(("torch", name) for name in torch[:1])):
        try:
            found[way] = peers[name].ask("limits", by=way, folder=str(run.folder / "limits"))
        except PeerError as error:
            found[way] = {"error": str(error)}
    run.keep(limits={**join_limits(list(found.values())), "by": found})


def measure(run: Run, network: Network, peers: Mapping[str, Peer]) -> Document:
    """Verify and time one network in every runtime; what fails is written in its place."""
    place, facts = network
    start = time.monotonic()
    results: dict[str, Document] = {}
    loaded: dict[str, Peer] = {}
    for name, peer in peers.items():
        try:
            if reason := run.why_not(name, facts):
                raise PeerError(reason)
            results[name] = load(peer, place, facts)
            loaded[name] = peer
        except PeerError as error:
            results[name] = {"error": str(error)}
    ready = time.monotonic()
    known = run.document["limits"]
    times, failed = rounds(loaded, run.options.rounds, run.limits)
    state = optional(peers[OURS], "state")
    for name, turns in times.items():
        results[name] |= summary(turns, facts, name, known) | optional(peers[name], "energy")
    results |= {name: {"error": error} for name, error in failed.items()}
    result = {name: value for name, value in facts.items() if name not in ("logits", "steps")}
    if OURS in times and "ms" in (steps := optional(peers[OURS], "steps")):
        result["our_steps"] = step_shares(facts["steps"], steps["ms"], facts["precision"], known)
    is_complete = not run.limits.is_over() and all(
        len(t["device_ms"]) == run.options.rounds for t in times.values()
    )
    for peer in loaded.values():
        optional(peer, "close")
    return result | {
        "runtimes": results,
        "state_after_rounds": state.get("nvidia_smi"),
        "is_complete": is_complete,
        "load_s": ready - start,
        "timing_s": time.monotonic() - ready,
    }


def optional(peer: Peer, what: str) -> Document:
    """Ask for what a network can do without."""
    try:
        return peer.ask(what, seconds=ENERGY_S)
    except PeerError:
        return {}


def find_peers(run: Run, ours: Peer, stack: ExitStack) -> dict[str, Peer]:
    """Start a process for each runtime that is here, ours first; write which are not, and why."""
    precisions = dict.fromkeys(facts["precision"] for _, facts in run.networks)
    names = [name for precision in precisions for name in runtimes_for(run.kind, precision)]
    peers: dict[str, Peer] = {OURS: ours}
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys(run.options.runtimes or names):
        if name == OURS:
            continue
        peer = stack.enter_context(closing(Peer(name, run.limits)))
        try:
            versions[name] = peer.ask("describe")["version"]
            peers[name] = peer
        except PeerError as error:
            absent[name] = str(error)
            peer.close()
    run.keep(versions=versions, absent=absent)
    for name, text in (versions | absent).items():
        run.say(f"{name}: {'absent, ' if name in absent else ''}{text}")
    return peers


def measure_all(run: Run, peers: Mapping[str, Peer]) -> None:
    """Measure network after network, writing after each."""
    results = run.document["networks"]
    for network in run.left_to_do(results):
        facts = network[1]
        if expected_seconds(results) > run.limits.left():
            run.say(f"no time left for {name_of(facts)} and what follows")
            break
        wanted = run.options.runtimes or runtimes_for(run.kind, facts["precision"])
        chosen = {name: peer for name, peer in peers.items() if name in (OURS, *wanted)}
        results.append(measure(run, network, chosen))
        run.keep()
        run.say(row_text(results[-1]))
    run.say("\n" + summary_table(results))


def expected_seconds(results: Sequence[Mapping[str, Any]]) -> float:
    """Return how long the next network may take: as the slowest to load and the slowest to time."""
    slowest = [
        max((item[what] for item in results), default=0.0) for what in ("load_s", "timing_s")
    ]
    return float(sum(slowest))


def run_all(options: argparse.Namespace) -> Document:
    """Run on the machine with the GPU, as far as the time goes."""
    limits = TimeLimits(options.peer_seconds, time.monotonic() + 60 * options.minutes)
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ofa-gpu-"))
        run = Run(unpack(options.run, Path(temporary)), options, limits)
        ours = stack.enter_context(closing(Peer(OURS, limits, most_failures=None)))
        describe_device(run, ours)
        check_ours(run, ours)
        if options.check:
            return run.document
        peers = find_peers(run, ours, stack)
        if options.warm:
            places = [(place, facts["precision"]) for place, facts in run.networks]
            run.keep(warm=warm(places, run.kind, list(peers), options.jobs, limits))
            return run.document
        measure_limits(run, peers)
        measure_all(run, peers)
        return run.document


def is_right(document: Document) -> bool:
    """Whether ours was right wherever it was tried, and was tried at all."""
    checks = [check["is_right"] for check in document["checks"]]
    return bool(checks) and all(checks) and all(map(_is_timed, document["networks"]))
