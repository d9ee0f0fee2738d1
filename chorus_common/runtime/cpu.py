"""What this machine's CPU says that it can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

#: Instructions that multiply bf16 numbers, as /proc/cpuinfo names them on x86 and ARM.
_BF16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


@functools.cache
def cpu_facts() -> tuple[str, frozenset[str]]:
    """(maker, instruction sets) of the first core; ("", nothing) where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", frozenset()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    by_name = {name.strip().lower(): value.strip() for name, value in fields.items()}
    return by_name.get("vendor_id", ""), frozenset((by_name.get("flags") or by_name.get("features") or "").split())


def has_bf16_units() -> bool:
    """Whether the CPU multiplies bf16 numbers itself. Without such units bf16 is computed in fp32 and rounded, which
    takes longer than fp32. Apple's chips since M2 (whose system has no /proc/cpuinfo) are not told apart from M1.
    """
    return platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64") and bool(_BF16_UNITS & cpu_facts()[1])
