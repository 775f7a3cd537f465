# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network that judges trajectories one by one, and adds them up.

What a window looks like, in coadds of its images, is context for all of them.
"""

from __future__ import annotations

__all__ = ("TrajectoryNetwork",)

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .architectures import Shape
from .conv3d import ConvolutionBlocks
from .trajectory_features import FEATURES

SNR_LIMIT = 20.0
"""S/N at which the prior evidence stops growing."""

SOFTENING = 5.0
"""Value of a feature up to which it is fed about as it is."""

NOTHING = -20.0
"""Logit of a sequence in which there is no trajectory to look at."""


class TrajectoryNetwork(nn.Module):
    """A few dense layers on the features of each trajectory give the evidence
    for an object on it; the evidence of all trajectories is added up.

    Parameters
    ----------
    hidden_units
        Number of neurons of each hidden layer.
    shape
        Number of coadds, height and width.
    filters
        Number of filters of each convolution of the coadds.
    context_units
        Number of values that say what a window looks like.
    snr_min, snr_max
        S/N between which objects are expected.

    Notes
    -----
    For white noise and an object on one of N trajectories with S/N a between
    the limits, the logit of the best possible test is that of the mean
    likelihood ratio, ``log(mean(exp(a s - a^2 / 2)))`` over a and the
    trajectories with S/N s (Neyman & Pearson). The network begins close to it,
    with the best start position in each pixel for all in it, and then
    learns where to believe the S/N without the static sky instead, and what to
    add to both and to the evidence. Trajectories that it is not fed count as
    ones with a likelihood ratio of 0.
    """

    snr: Tensor
    """S/N that objects are expected with."""

    scale: Tensor
    """Factors on the features."""

    def __init__(
        self,
        *,
        hidden_units: Sequence[int],
        shape: Shape,
        filters: Sequence[int],
        context_units: int,
        snr_min: float,
        snr_max: float,
    ) -> None:
        super().__init__()
        self.blocks = ConvolutionBlocks(shape, filters)
        self.context = nn.Sequential(
            nn.Flatten(), nn.Linear(self.blocks.n_features, context_units), nn.GELU()
        )
        # What the context itself says, for or against an object.
        self.prior = nn.Linear(context_units, 1)
        layers: list[nn.Module] = []
        units = [len(FEATURES) + context_units, *hidden_units]
        for n_in, n_out in zip(units[:-1], units[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.correction = nn.Linear(units[-1], 3)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)
        nn.init.zeros_(self.prior.weight)
        nn.init.zeros_(self.prior.bias)
        self.register_buffer("snr", torch.linspace(snr_min, snr_max, 16))
        self.register_buffer("scale", torch.tensor([_SCALES[name] for name in FEATURES]))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of sequences.

        Parameters
        ----------
        inputs
            ``features``, ``(n, n_trajectories, n_features)``; ``n_seen``, the
            number of all trajectories of a sequence, ``(n,)``; and ``coadds``,
            the compressed S/N in coadds, ``(n, n_coadds, height, width)``.

        Returns
        -------
        logits : `torch.Tensor`
            Logits, ``(n,)``.
        """
        features, n_seen = inputs["features"], inputs["n_seen"]
        seen = features[..., FEATURES.index("coverage")] > 0
        context = self.context(self.blocks(inputs["coadds"]))
        evidence = self._evidence(features, context).masked_fill(~seen, -math.inf)
        evidence = torch.where(n_seen[:, None] > 0, evidence, 0.0)
        total = torch.logsumexp(evidence, dim=1) - torch.log(n_seen.clamp(min=1))
        return torch.where(n_seen > 0, total + self.prior(context).squeeze(1), NOTHING)

    def _evidence(self, features: Tensor, context: Tensor) -> Tensor:
        """Return the logarithm of the likelihood ratio of each trajectory."""
        snr, moving = (features[..., FEATURES.index(name)] for name in ("snr", "moving_snr"))
        compressed = SOFTENING * torch.asinh(features * self.scale / SOFTENING)
        known = torch.cat([compressed, context[:, None].expand(-1, features.shape[1], -1)], dim=-1)
        change, added, doubt = self.correction(self.layers(known)).unbind(dim=-1)
        snr, moving = (value.clamp(-SNR_LIMIT, SNR_LIMIT) for value in (snr, moving))
        believed = (snr + torch.tanh(doubt) * (moving - snr) + change)[..., None]
        ratio = torch.logsumexp(self.snr * believed - self.snr**2 / 2, dim=-1) - math.log(len(self.snr))
        return ratio + added


_SCALES = {
    "snr": 1.0,
    "moving_snr": 1.0,
    "clipped_snr": 1.0,
    "excess": 1.0,
    "drift": 1.0,
    "static_snr": 1.0,
    "largest": 1.0,
    "coverage": 3.0,
    "displacement": 0.4,
    "brightest": 1.0,
    "unrest": 10.0,
    "left": 3.0,
}
"""Factors that bring the features to about the same size."""
