#!/usr/bin/env bash
# Install what pip cannot bring: a C compiler, and for arm64 a cross compiler and QEMU.
# With the word "tests" also what only tests need: a software Vulkan device, its validation layer and
# tools for shaders; compilers and emulators for 32-bit ARM, RISC-V and WebAssembly.
# Never fails: where it may not install, it says what is missing, and what needs it is skipped.
set -euo pipefail

missing=()
need() { # need PROGRAM PACKAGE...
    command -v "$1" >/dev/null || missing+=("${@:2}")
}

need gcc gcc libc6-dev
if [ "$(uname -m)" != aarch64 ]; then
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
    need qemu-aarch64 qemu-user
    [ -e /usr/aarch64-linux-gnu/lib/libc.a ] || missing+=(libc6-dev-arm64-cross)
fi
if [ "${1:-}" = tests ]; then
    need glslangValidator glslang-tools
    need spirv-val spirv-tools
    ls /usr/share/vulkan/icd.d/*.json >/dev/null 2>&1 || missing+=(mesa-vulkan-drivers libvulkan1)
    [ -e /usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json ] ||
        missing+=(vulkan-validationlayers)
    need arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
    need riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu libc6-dev-riscv64-cross
    need qemu-riscv64 qemu-user
    need node nodejs
    need clang clang
    need wasm-ld lld
    [ -e /usr/lib/wasm32-wasi/libc.a ] || missing+=(wasi-libc)
    ls /usr/lib/llvm-*/lib/clang/*/lib/wasi/*wasm32.a >/dev/null 2>&1 ||
        missing+=(libclang-rt-dev-wasm32)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo -n"
    if ! sudo -n true 2>/dev/null; then
        as_root=no
    fi
fi
if [ "$as_root" = no ] || ! command -v apt-get >/dev/null; then
    echo "missing system packages: ${missing[*]}" >&2
    echo "  on Debian and Ubuntu: sudo apt-get install ${missing[*]}" >&2
    exit 0
fi

echo "installing ${missing[*]}"
options=(-qq -o Acquire::Retries=2 -o Acquire::http::Timeout=30)
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get "${options[@]}" update >/dev/null || true
if ! $as_root apt-get "${options[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
then
    echo "could not install ${missing[*]}; what needs them is skipped" >&2
fi
