# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""The convolutions and dense layers of a network, without all that is between
them.
"""

from __future__ import annotations

__all__ = ("Call", "count_flops", "record_calls", "replay")

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "bmm", "mm", "addmm", "einsum")
"""Names of the functions of torch that count."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a function of torch."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    gradient: Tensor
    """Derivative of the loss by the result."""


def record_calls(network: nn.Module, inputs: Mapping[str, Tensor]) -> list[Call]:
    """Return the calls of convolutions and dense layers that a network makes.

    Parameters
    ----------
    network
        The network, on the device of its inputs.
    inputs
        What it is fed.
    """
    recorder = _Recorder()
    network.train()
    with recorder:
        network(inputs)
    network.eval()
    return recorder.calls


class _Recorder(TorchFunctionMode):
    """Keeps copies of the arguments of `LAYERS`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") in LAYERS:
            arguments = tuple(_copy(value) for value in args)
            keywords = {name: _copy(value) for name, value in kwargs.items()}
            self.calls.append(Call(func, arguments, keywords, torch.ones_like(result)))
        return result


def _copy(value: Any) -> Any:
    """Return a leaf of the same shape and memory format that has a derivative
    where the original has.
    """
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone(memory_format=torch.preserve_format).requires_grad_(value.requires_grad)


def replay(calls: list[Call], *, backward: bool) -> None:
    """Make the calls again.

    Parameters
    ----------
    calls
        The calls.
    backward
        Whether to compute the derivatives by their arguments, too.
    """
    if not backward:
        with torch.inference_mode():
            for call in calls:
                call.function(*call.arguments, **call.keywords)
        return
    for call in calls:
        result = call.function(*call.arguments, **call.keywords)
        if result.requires_grad:
            result.backward(call.gradient.to(result.dtype))
        for value in (*call.arguments, *call.keywords.values()):
            if isinstance(value, Tensor):
                value.grad = None


def count_flops(function: Callable[[], None]) -> int:
    """Return how many operations on numbers of floating point the products of
    a function are.

    Parameters
    ----------
    function
        The function.
    """
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()
