# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where and how torch computes."""

from __future__ import annotations

__all__ = ("compute_logits", "reproducible", "resolve_device", "to_tensors")

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def resolve_device(name: str) -> torch.device:
    """Return the device to compute on.

    Parameters
    ----------
    name
        ``auto`` (a GPU where there is one, or else the CPU), ``cpu`` or
        ``cuda``.

    Raises
    ------
    RuntimeError
        Raised if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU on this machine; configure device='cpu' or 'auto'.")
    return torch.device(name)


@contextlib.contextmanager
def reproducible(*, n_threads: int, seed: int = 0) -> Iterator[None]:
    """Make torch give the same bytes again, and put its state back at the end.

    Parameters
    ----------
    n_threads
        Number of threads on the CPU; sums depend on it.
    seed
        Seed of torch's own random numbers.
    """
    # cuBLAS reads it when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic
    old = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        memory.fill_uninitialized_memory,
    )
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        torch.manual_seed(seed)
        torch.set_num_threads(n_threads)
        torch.use_deterministic_algorithms(True)
        # Filling takes time, and nothing here reads such memory.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.set_num_threads(old[0])
            torch.use_deterministic_algorithms(old[1])
            memory.fill_uninitialized_memory = old[2]


def to_tensors(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return arrays as tensors on a device.

    Parameters
    ----------
    arrays
        Inputs of a network.
    device
        The device.
    """
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def compute_logits(
    network: nn.Module, batches: Iterable[Mapping[str, np.ndarray]], device: torch.device
) -> np.ndarray:
    """Return what a network says of sequences.

    Parameters
    ----------
    network
        Network, on the device.
    batches
        Inputs of the network.
    device
        The device.

    Returns
    -------
    logits : `numpy.ndarray`
        Logits, float32 ``(n,)``, in the order of the sequences.
    """
    network.eval()
    with torch.inference_mode():
        logits = [network(to_tensors(batch, device)).cpu().numpy() for batch in batches]
    return np.concatenate([np.empty(0, dtype=np.float32), *logits])
