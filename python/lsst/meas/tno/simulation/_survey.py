# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a simulated survey into a butler repository."""

from __future__ import annotations

__all__ = ("SurveyExistsError", "SurveySummary", "simulate_survey")

import contextlib
import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType, FileDataset
from lsst.resources import ResourcePath, ResourcePathExpression

from ._camera import INSTRUMENT
from ._config import SimulateSurveyConfig
from ._images import WrittenImages, write_visit
from ._objects import make_truth_table
from ._records import insert_records
from ._render import Scene, make_scene
from ._sky import TRACT, make_patches

type Progress = Callable[[int, int], None]
"""What is told how many visits of how many are done."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class SurveyExistsError(RuntimeError):
    """The repository has something already that the survey would write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurveySummary:
    """What a simulated survey has, and where."""

    root: str
    """Root of the repository (`str`)."""

    instrument: str
    """Name of the instrument (`str`)."""

    run: str
    """RUN collection of the images (`str`)."""

    collection: str
    """CHAINED collection to search (`str`)."""

    skymap: str
    """Name of the skymap (`str`)."""

    tract: int
    """The tract (`int`)."""

    patches: tuple[int, ...]
    """Its patches."""

    visits: tuple[int, ...]
    """Visits in order of time."""

    detectors: tuple[int, ...]
    """Detectors."""

    dataset_types: tuple[str, ...]
    """Dataset types written."""

    n_images: int
    """Number of images, of all types (`int`)."""

    n_stars: int
    """Number of stars in the scene (`int`)."""

    n_galaxies: int
    """Number of galaxies in the scene (`int`)."""

    n_objects: int
    """Number of moving objects that are in an image (`int`)."""


def simulate_survey(
    root: ResourcePathExpression,
    config: SimulateSurveyConfig | None = None,
    *,
    n_processes: int = 1,
    progress: Progress | None = None,
) -> SurveySummary:
    """Simulate a survey and put it into a butler repository.

    The repository stays as it was if anything fails before all images are
    drawn.

    Parameters
    ----------
    root
        Root of the repository, which is made if it does not exist.
    config
        Configuration of the survey.
    n_processes
        Number of processes to draw in. The images do not depend on it. With
        more than one, a script must guard its own work with
        ``if __name__ == "__main__"``, because the processes import it.
    progress
        Called with the number of visits done and their total.

    Returns
    -------
    summary : `SurveySummary`
        What was written.

    Raises
    ------
    SurveyExistsError
        Raised if the repository has such a survey already, or too old a
        dimension universe.
    ValueError
        Raised if the configuration is impossible.
    FileExistsError
        Raised if ``root`` exists and is neither an empty directory nor a
        butler repository.
    """
    config = SimulateSurveyConfig() if config is None else config
    config.validate()
    root = ResourcePath(root, forceDirectory=True)
    is_new = _check_root(root, config)
    scene = make_scene(config)
    with _scratch(root) as directory:
        written = _draw(scene, directory, n_processes, progress)
        if is_new:
            Butler.makeRepo(root)
        with Butler.from_config(root, writeable=True) as butler:
            _store(butler, scene, written)
    return _summarize(root, scene, written)


def _check_root(root: ResourcePath, config: SimulateSurveyConfig) -> bool:
    """Check that the survey can be written; return whether the repository
    must be made first.
    """
    if not root.join("butler.yaml").exists():
        if root.isLocal and os.path.isdir(root.ospath) and os.listdir(root.ospath):
            raise FileExistsError(
                f"{root.ospath} exists, is not empty and is not a butler repository; give another path."
            )
        if root.isLocal and os.path.isfile(root.ospath.rstrip("/")):
            raise FileExistsError(f"{root.ospath.rstrip('/')} is a file; give another path.")
        return True
    with Butler.from_config(root) as butler:
        if problem := _find_conflict(butler, config):
            raise SurveyExistsError(f"{root} {problem}")
    return False


def _find_conflict(butler: Butler, config: SimulateSurveyConfig) -> str | None:
    """Return why a survey cannot be put in a repository, if so."""
    if not {"day_obs", "group"} <= set(butler.dimensions.elements.names):
        return f"has dimensions of version {butler.dimensions.version}; 6 or later is needed."
    if butler.registry.queryDimensionRecords("instrument", where=f"instrument = '{INSTRUMENT}'").any():
        return f"has the instrument {INSTRUMENT} already; give another repository."
    if butler.registry.queryDimensionRecords("skymap", where=f"skymap = '{config.skymap}'").any():
        return f"has the skymap {config.skymap!r} already; set skymap to another name."
    collections = set(butler.collections.query("*"))
    if taken := sorted({config.run, config.collection} & collections):
        return f"has the collections {taken} already; set run and collection to other names."
    return None


@contextlib.contextmanager
def _scratch(root: ResourcePath) -> Iterator[Path]:
    """Make a temporary directory that files can be moved out of into the
    repository without copying them.
    """
    parent = None
    if root.isLocal:
        parent = Path(root.ospath).resolve().parent
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".simulate-tno-survey-", dir=parent) as directory:
        yield Path(directory)


def _draw(scene: Scene, directory: Path, n_processes: int, progress: Progress | None) -> list[WrittenImages]:
    written: list[WrittenImages] = []
    total = len(scene.visits)
    for done, images in enumerate(_iterate_visits(scene, directory, n_processes), start=1):
        written.extend(images)
        if progress is not None:
            progress(done, total)
    return written


def _iterate_visits(scene: Scene, directory: Path, n_processes: int) -> Iterator[list[WrittenImages]]:
    """Write the visits, in order, here or in other processes."""
    if n_processes == 1:
        for visit in scene.visits:
            yield write_visit(scene, visit, directory)
        return
    # Forked processes inherit the locks of threads that are gone in them.
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded(),
        ProcessPoolExecutor(
            min(n_processes, len(scene.visits)),
            mp_context=context,
            initializer=_initialize_worker,
            initargs=(scene.config, directory),
        ) as pool,
    ):
        yield from pool.map(_write_visit_in_worker, range(len(scene.visits)))


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Have processes that are started now compute on one thread each."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Worker:
    """What a process that draws images holds."""

    scene: Scene
    directory: Path


def _initialize_worker(config: SimulateSurveyConfig, directory: Path) -> None:
    _Worker.scene, _Worker.directory = make_scene(config), directory


def _write_visit_in_worker(index: int) -> list[WrittenImages]:
    return write_visit(_Worker.scene, _Worker.scene.visits[index], _Worker.directory)


def _store(butler: Butler, scene: Scene, written: list[WrittenImages]) -> None:
    """Register the survey and take its files into the repository; or leave
    that as it was.
    """
    config = scene.config
    types = _dataset_types(butler, config)
    with contextlib.ExitStack() as undo:
        for dataset_type in types.values():
            if butler.registry.registerDatasetType(dataset_type):
                undo.callback(butler.registry.removeDatasetType, dataset_type.name)
        if butler.collections.register(config.run, CollectionType.RUN):
            undo.callback(butler.collections.x_remove, config.run)
        with butler.transaction():
            insert_records(butler.registry, scene)
            butler.ingest(*_list_files(butler, config, types, written), transfer="move")
            truth = make_truth_table(images.truth for images in written)
            butler.put(truth, types[config.objects_name], run=config.run)
        undo.pop_all()
    butler.collections.register(config.collection, CollectionType.CHAINED)
    butler.collections.redefine_chain(config.collection, [config.run])


def _list_files(
    butler: Butler,
    config: SimulateSurveyConfig,
    types: Mapping[str, DatasetType],
    written: list[WrittenImages],
) -> list[FileDataset]:
    """Return the images, and where they go."""
    return [
        FileDataset(
            path=str(path),
            refs=[
                DatasetRef(
                    types[name],
                    butler.registry.expandDataId(
                        instrument=INSTRUMENT, visit=images.visit, detector=images.detector
                    ),
                    run=config.run,
                )
            ],
        )
        for images in written
        for name, path in images.paths.items()
    ]


def _dataset_types(butler: Butler, config: SimulateSurveyConfig) -> dict[str, DatasetType]:
    image_dimensions = ("instrument", "visit", "detector")
    definitions = [(config.visit_image_name, image_dimensions, "VisitImage")]
    if config.make_difference_images:
        definitions.append((config.difference_image_name, image_dimensions, "DifferenceImage"))
    types = {
        name: DatasetType(name, dimensions, storage_class, universe=butler.dimensions)
        for name, dimensions, storage_class in definitions
    }
    types[config.objects_name] = DatasetType(
        config.objects_name, (), "ArrowAstropy", universe=butler.dimensions
    )
    return types


def _summarize(root: ResourcePath, scene: Scene, written: list[WrittenImages]) -> SurveySummary:
    config = scene.config
    names = [config.visit_image_name]
    if config.make_difference_images:
        names.append(config.difference_image_name)
    seen = {name for images in written for name in images.truth["object_id"]}
    return SurveySummary(
        root=root.ospath.rstrip("/") if root.isLocal else str(root),
        instrument=INSTRUMENT,
        run=config.run,
        collection=config.collection,
        skymap=config.skymap,
        tract=TRACT,
        patches=tuple(patch.id for patch in make_patches(config)),
        visits=tuple(visit.id for visit in scene.visits),
        detectors=tuple(detector.id for detector in scene.camera.detectors),
        dataset_types=(*names, config.objects_name),
        n_images=sum(len(images.paths) for images in written),
        n_stars=len(scene.stars.ra),
        n_galaxies=len(scene.galaxies.ra),
        n_objects=len(seen),
    )
