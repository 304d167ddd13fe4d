"""Our declarations of Vulkan against the official header, where it is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ofa_compile.compiler.link import runtime_folder

OFFICIAL = Path("/usr/include/vulkan/vulkan.h")
API = runtime_folder() / "vulkan_api.h"


def structures(text: str) -> dict[str, list[str]]:
    """Names of the structures, each with its members but for those without a name of their own."""
    found = {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.S):
        members = re.findall(r"(\w+)(?:\[\d+\])?[,;]", body)
        found[name] = [member for member in members if not member.startswith("unused")]
    return found


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="no Vulkan headers (Debian: libvulkan-dev)")
def test_layouts_and_numbers_are_the_official_ones(tmp_path: Path) -> None:
    text = API.read_text()
    names = {name: members for name, members in structures(text).items() if name.startswith("Vk")}
    assert len(names) > 30
    lines = []
    for name, members in names.items():
        lines.append(f'    printf("{name} %zu\\n", sizeof({name}));')
        lines += [
            f'    printf("{name}.{member} %zu\\n", offsetof({name}, {member}));'
            for member in members
            if member != "granularity"  # minImageTransferGranularity, which we never read
        ]
    constants = sorted(set(re.findall(r"\b(VK_[A-Z0-9_]+) = ", text)))
    lines += [f'    printf("{name} %lld\\n", (long long){name});' for name in constants]
    body = "\n".join(lines)
    printed = []
    for header in (str(API), str(OFFICIAL)):
        source = f"#include <stddef.h>\n#include <stdio.h>\n#include <{header.removeprefix('/')}>\n"
        (tmp_path / "layout.c").write_text(f"{source}int main(void) {{\n{body}\nreturn 0;\n}}\n")
        program = tmp_path / "layout"
        command = ["gcc", "-I/", str(tmp_path / "layout.c"), "-o", str(program)]
        subprocess.run(command, check=True)
        done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
        printed.append(done.stdout.splitlines())
    assert printed[0] == printed[1]
    assert len(printed[0]) > 200
