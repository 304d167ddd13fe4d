#!/bin/sh
# Tune the embedded space for the instruction sets whose configurations ship with the package.
# Run it on a quiet machine with AVX-512, after kernels/ has changed: some minutes, resumable.
set -eu
cd "$(dirname "$0")/.."
command=${OFA_COMPILE:-.venv/bin/ofa-compile}
workspace=${1:-ofa-workspace/shipped}
tune() {
    "$command" tune --space ofa_mbv3_cifar --target "$1" --workspace "$workspace" \
        --output "ofa_compile/tuning/shipped/$2.json"
}
tune x86-64-avx512 x86_64-512
tune x86-64 x86_64-256
