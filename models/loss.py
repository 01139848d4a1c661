"""What the network is fitted to."""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Mean quantile loss (...,) of quantiles (..., level) against target (...,); NaN targets count 0.

    Source: Koenker and Bassett, "Regression Quantiles", Econometrica 46(1), 1978.
    """
    known = ~target.isnan()
    miss = torch.where(known, target, 0.0)[..., None] - quantiles
    loss = torch.maximum(levels * miss, (levels - 1) * miss).mean(dim=-1)
    return torch.where(known, loss, 0.0)
