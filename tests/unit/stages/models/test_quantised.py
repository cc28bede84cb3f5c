"""A model of 4-bit weights on a CPU."""

from __future__ import annotations

import pytest
import torch


def test_it_trains_on_the_same_gradients_after_it_was_evaluated() -> None:
    """On a CPU with AVX512-BF16 bitsandbytes would pack its weights then, and give no gradient any more."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    quantised = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    weight = torch.randn(64, 64)
    quantised.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=quantised)
    # Quantised on its way to the device.
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), quantised.to("cpu"))
    rows = torch.randn(4, 64)

    def gradient() -> torch.Tensor:
        model.train().zero_grad(set_to_none=True)
        model(rows).square().sum().backward()
        return model[0].weight.grad

    before = gradient()
    with torch.no_grad():
        model.eval()(rows)
    assert gradient().equal(before)
