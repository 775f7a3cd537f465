# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
r"""How fast each architecture is trained and scores, and how much of the time
its convolutions and dense layers take.

On the CPU, and on the GPU where there is one::

    python benchmarks/throughput.py --threads 2
    python benchmarks/throughput.py --devices cuda --peak-tflops 67 \
        --batch-size 512

Training goes through the `Trainer`, with all it does in an epoch to batches of
which the network's inputs are known; what makes these inputs of pixels is a
row of its own. Scoring goes through `Classifier.compute_logits`, from pixels
to logits. Both are held against the bare convolutions and dense layers: the
same calls of torch with the same shapes and memory formats, one after the
other, and nothing else, with the same settings for reproducible results.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bare_layers import Call, count_flops, record_calls, replay
from detectors import SHAPE, untrained
from white_noise import PIXEL_SCALE, Sky, inject_linear

from lsst.meas.tno import ImageSequences
from lsst.meas.tno.nn import Architecture, TrainingConfig, architectures
from lsst.meas.tno.nn.array_store import ArrayStore
from lsst.meas.tno.nn.compute import reproducible, to_tensors
from lsst.meas.tno.nn.training import Trainer
from lsst.meas.tno.nn.training_set import TrainingSet
from lsst.meas.tno.positions import SPLITS
from lsst.utils.logging import getLogger
from lsst.utils.threads import disable_implicit_threading

N_VALIDATION = 2
"""Sequences to validate on, as few as possible."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """One row of the table."""

    architecture: str
    device: str
    what: str
    rate: float
    """Sequences a second."""

    bare: float = float("nan")
    """Sequences a second of the bare layers."""

    flops: float = float("nan")
    """Operations a sequence of the bare layers."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--architecture", action="append", choices=sorted(architectures), help="By default all; repeatable."
    )
    parser.add_argument("--devices", nargs="+", default=devices(), choices=["cpu", "cuda"])
    parser.add_argument("--sequences", type=int, default=256, help="Sequences of an epoch.")
    parser.add_argument("--batch-size", type=int, default=32, help="Sequences at a time.")
    parser.add_argument("--repeat", type=int, default=3, help="Times to measure; the fastest counts.")
    parser.add_argument("--threads", type=int, default=2, help="Threads on the CPU.")
    parser.add_argument("--workers", type=int, default=0, help="Threads that prepare batches ahead.")
    parser.add_argument(
        "--mixed-precision", default="none", choices=["none", "bf16", "fp16"], help="Of training on a GPU."
    )
    parser.add_argument("--peak-tflops", type=float, help="Peak of the GPU at this precision, 1e12/s.")
    args = parser.parse_args()
    if args.sequences < 2 * args.batch_size:
        parser.error("--sequences must be at least twice --batch-size.")
    # As pipetask does it; torch alone has several threads.
    disable_implicit_threading()
    sequences = make_sequences(args.sequences + N_VALIDATION)
    print(f"{args.threads} threads, batches of {args.batch_size}; sequences/s, and of the bare layers alone")
    print_header()
    for name in args.architecture or sorted(architectures):
        for device in args.devices:
            for speed in measure(name, device, sequences, args):
                print_row(speed, args)


def devices() -> list[str]:
    """Return the devices there are."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def make_sequences(n: int) -> ImageSequences:
    """Return sequences of white noise, half of them with an object."""
    blank = Sky().blank(np.random.default_rng(1), n)
    return inject_linear(blank, 1, (3.0, 12.0), fraction=0.5)


def measure(name: str, device: str, sequences: ImageSequences, args: argparse.Namespace) -> Iterator[Speed]:
    """Yield the speeds of an architecture on a device."""
    classifier = untrained(name).classifier
    columns: Mapping[str, np.ndarray] = {column.name: array for column, array in sequences.items()}
    first = {key: columns[key][: args.batch_size] for key in classifier.architecture.columns}
    inputs = to_tensors(classifier.architecture.encode(first), torch.device(device))
    calls = record_calls(classifier.network.to(device), inputs)
    with reproducible(n_threads=args.threads):
        if device == "cpu":
            (seconds,) = fastest(args.repeat, lambda: classifier.architecture.encode(first))
            yield Speed(name, device, "inputs", args.batch_size / seconds)
        rate = train(classifier.architecture, columns, sequences, device, args)
        (bare,) = fastest(args.repeat, lambda: run_bare(calls, device, True, args))
        flops = count_flops(lambda: replay(calls, backward=True)) / args.batch_size
        yield Speed(name, device, "training", rate, args.batch_size / bare, flops)
        seconds, bare = fastest(
            args.repeat,
            lambda: classifier.compute_logits(columns, batch_size=args.batch_size, device=device),
            lambda: run_bare(calls, device, False, args),
        )
        flops = count_flops(lambda: replay(calls, backward=False)) / args.batch_size
        yield Speed(name, device, "scoring", len(sequences) / seconds, args.batch_size / bare, flops)


def fastest(repeat: int, *functions: Callable[[], Any]) -> list[float]:
    """Return the shortest time that each function takes after its first call,
    in seconds. They take turns, so that all see the same load.
    """
    seconds = np.empty((repeat + 1, len(functions)))
    for number in range(repeat + 1):
        for index, function in enumerate(functions):
            begin = time.perf_counter()
            function()
            seconds[number, index] = time.perf_counter() - begin
    return seconds[1:].min(axis=0).tolist()


def run_bare(calls: list[Call], device: str, backward: bool, args: argparse.Namespace) -> None:
    """Run the bare layers in the precision of training or of scoring."""
    is_mixed = device == "cuda" and backward and args.mixed_precision != "none"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision, torch.bfloat16)
    with torch.autocast(device, dtype=dtype, enabled=is_mixed):
        replay(calls, backward=backward)
    if device == "cuda":
        torch.cuda.synchronize()


def train(
    architecture: Architecture,
    columns: Mapping[str, np.ndarray],
    sequences: ImageSequences,
    device: str,
    args: argparse.Namespace,
) -> float:
    """Return how many sequences a second a training sees."""
    assert sequences.injection is not None
    config = TrainingConfig()
    config.batch_size, config.device, config.n_threads = args.batch_size, device, args.threads
    config.max_epochs = config.patience = args.repeat + 1
    config.n_workers, config.mixed_precision = args.workers, args.mixed_precision
    config.batch_norm_sequences = 2
    with tempfile.TemporaryDirectory() as directory:
        store = ArrayStore(Path(directory))
        for first in range(0, len(sequences), args.batch_size):
            rows = slice(first, first + args.batch_size)
            store.append(architecture.encode({key: columns[key][rows] for key in architecture.columns}))
        trainer = Trainer(architecture, training_set(sequences, store), config, getLogger("throughput"))
        trainer.run()
    # The first epoch warms up.
    return args.sequences / min(epoch.seconds for epoch in trainer.history[1:])


def training_set(sequences: ImageSequences, store: ArrayStore) -> TrainingSet:
    """Return a set that all but the last sequences are trained on."""
    assert sequences.injection is not None
    split = np.full(len(sequences), SPLITS.index("training"), dtype=np.uint8)
    split[-N_VALIDATION:] = SPLITS.index("validation")
    return TrainingSet(
        store=store,
        shape=SHAPE,
        pixel_scale=PIXEL_SCALE,
        split=split,
        injected=sequences.injection.injected,
        snr=sequences.injection.snr,
        n_valid=sequences.valid.sum(axis=1),
        sources=[],
        counts={},
    )


def print_header() -> None:
    """Print what the columns are."""
    print(
        f"{'architecture':16}{'device':8}{'':10}{'seq/s':>10}{'bare':>10}{'time/bare':>11}"
        f"{'GFLOP/seq':>11}{'TFLOP/s':>9}{'of peak':>9}"
    )


def print_row(speed: Speed, args: argparse.Namespace) -> None:
    """Print a row of the table."""
    row = f"{speed.architecture:16}{speed.device:8}{speed.what:10}{speed.rate:10.1f}"
    if np.isfinite(speed.bare):
        tflops = speed.rate * speed.flops / 1e12
        row += f"{speed.bare:10.1f}{speed.bare / speed.rate:11.2f}{speed.flops / 1e9:11.4f}{tflops:9.4f}"
        if speed.device == "cuda" and args.peak_tflops is not None:
            row += f"{tflops / args.peak_tflops:9.4f}"
    print(row, flush=True)


if __name__ == "__main__":
    main()
