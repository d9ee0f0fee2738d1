"""Which precision is taken, by what the CPU says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chorus_common.runtime import cpu, devices
from chorus_common.runtime.devices import choose_precision

CPU = torch.device("cpu")
X86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 {more}\n\nprocessor\t: 1\nvendor_id\t: Other\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {more}\nCPU part\t: 0xd40\n\n"


@pytest.mark.parametrize(
    ("text", "vendor", "has_units"),
    [
        (X86.format(more="avx512f avx512_bf16"), "AuthenticAMD", True),
        (X86.format(more="amx_bf16"), "AuthenticAMD", True),
        (X86.format(more="avx512f avx512_vnni"), "AuthenticAMD", False),
        (ARM.format(more="sve bf16"), "", True),
        (ARM.format(more="sve"), "", False),
        ("", "", False),
        (None, "", False),
    ],
)
def test_what_the_cpu_says(text: str | None, vendor: str, has_units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path, **_: object) -> str:
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    cpu.cpu_facts.cache_clear()
    try:
        assert cpu.cpu_facts()[0] == vendor
        assert cpu.has_bf16_units() == has_units
    finally:
        cpu.cpu_facts.cache_clear()


def test_auto_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16_units", lambda: False)
    assert choose_precision("auto", CPU) == ("fp32", "precision auto: fp32, since this CPU has no bf16 units")
    precision, line = choose_precision("bf16", CPU)
    assert precision == "bf16"
    assert line.startswith("warning: precision bf16: this CPU has no bf16 units")
    assert choose_precision("fp32", CPU) == ("fp32", "")
    monkeypatch.setattr(devices, "has_bf16_units", lambda: True)
    assert choose_precision("auto", CPU) == ("bf16", "precision auto: bf16")
    assert choose_precision("bf16", CPU) == ("bf16", "")
