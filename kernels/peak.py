"""The rate of multiply-adds that one core reaches: independent chains in registers."""

from __future__ import annotations

from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.kernels import emit


def num_chains(machine: VectorMachine) -> int:
    """Chains side by side; with 32 registers enough for four cycles on up to six units."""
    return machine.registers * 3 // 4


def num_values(machine: VectorMachine) -> int:
    """Values that the kernel keeps: its chains, and the factor after them."""
    return (num_chains(machine) + 1) * machine.lanes


def build_peak(machine: VectorMachine):
    """Build a kernel over `num_values` values that steps every chain from `begin` to `end`."""
    lanes, chains = machine.lanes, num_chains(machine)

    def body(values, begin, end):
        cells = emit.local(chains * lanes)
        factor = emit.load(values, chains * lanes, lanes)
        for chain in range(chains):
            emit.store(cells, chain * lanes, emit.load(values, chain * lanes, lanes), lanes)
        with emit.serial(begin, end):
            for chain in range(chains):
                value = emit.load(cells, chain * lanes, lanes)
                emit.store(cells, chain * lanes, value * factor + factor, lanes)
        for chain in range(chains):
            emit.store(values, chain * lanes, emit.load(cells, chain * lanes, lanes), lanes)

    return emit.define({"values": num_values(machine)}, body)
