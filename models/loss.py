"""What the network is fitted to."""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean quantile loss (...,) of quantiles (..., level) against target (...,); NaN targets count 0.

    `weights` (..., level) says how much a level counts; 1 each where it is None.
    Source: Koenker and Bassett, "Regression Quantiles", Econometrica 46(1), 1978.
    """
    known = ~target.isnan()
    miss = torch.where(known, target, 0.0)[..., None] - quantiles
    each = torch.maximum(levels * miss, (levels - 1) * miss)
    loss = (each if weights is None else each * weights).mean(dim=-1)
    return torch.where(known, loss, 0.0)


def peak_weights(peak: Tensor, levels: Tensor) -> Tensor:
    """(..., level) how much each level counts in the fit, where `peak` (...,) says whether a maximum is asked.

    Decisions read the upper levels of a peak, whose losses are small beside that of the median, about in proportion to
    sqrt(level (1 - level)): they are divided by it, so that 0.99 counts as much as 0.5. Values count 1 at all levels.
    """
    upper = torch.where(levels > 0.5, 0.5 / torch.sqrt(levels * (1 - levels)), 1.0)
    return torch.where(peak[..., None], upper, 1.0)
