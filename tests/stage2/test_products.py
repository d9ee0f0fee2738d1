"""Products of inference in oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stage2_distill.encoder import build_encoder
from stage2_distill.encoder.products import fast_products, onednn_is_faster, rounds_rows
from tests.stage2.clouds import cloud

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch comes without oneDNN"
)


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_the_same(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, offset = torch.randn(rows, 48), torch.randn(64, 48), torch.randn(64) if bias else None
    plain = F.linear(x, weight, offset)
    with torch.no_grad(), fast_products(library="onednn"):
        assert rounds_rows()
        torch.testing.assert_close(F.linear(x, weight, offset), plain, rtol=1e-4, atol=1e-4)
        out = torch.empty(rows, 64)
        torch.mm(x, weight.T.contiguous(), out=out)
        torch.testing.assert_close(out, x @ weight.T, rtol=1e-4, atol=1e-4)
    assert not rounds_rows()


@pytest.mark.parametrize("preset", ["chorus-lite", "sonata", "chorus-3dgs"])
def test_an_encoder_gives_the_same(preset: str) -> None:
    torch.manual_seed(0)
    small = {"enc_channels": (32, 64, 96, 128), "enc_num_head": (2, 4, 6, 8), "enc_depths": (1, 1, 1, 1),
             "enc_patch_size": (64,) * 4, "dec_channels": (32, 64, 96), "stride": (2, 2, 2)}  # fmt: skip
    if preset == "chorus-lite":
        small = {"enc_channels": (32, 64, 96)}
    encoder = build_encoder(preset, **small).eval()
    batch = cloud(700, encoder.config.in_channels, extent=24)
    found = []
    with torch.no_grad():
        for library in ("torch", "onednn", "onednn"):
            with fast_products(library=library):
                found.append(encoder(batch))
    assert torch.equal(found[1], found[2]), "the same in every run"
    assert (found[0] - found[1]).abs().max() / found[0].abs().max() < 1e-5


def test_gradients_and_low_precision_stay_with_torch() -> None:
    x, weight = torch.randn(40, 48), torch.randn(64, 48, requires_grad=True)
    with fast_products(library="onednn"):
        F.linear(x, weight).sum().backward()
        assert weight.grad is not None
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert F.linear(x, weight).dtype == torch.bfloat16


def test_what_decides_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from stage2_distill.encoder import products

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for vendor, faster in (("AuthenticAMD", True), ("GenuineIntel", False), ("", False)):
        monkeypatch.setattr(products, "cpu_facts", lambda vendor=vendor: (vendor, frozenset()))
        onednn_is_faster.cache_clear()
        assert onednn_is_faster() == (faster and torch.backends.mkl.is_available())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(products, "cpu_facts", lambda: ("AuthenticAMD", frozenset()))
    onednn_is_faster.cache_clear()
    assert not onednn_is_faster()
    onednn_is_faster.cache_clear()
