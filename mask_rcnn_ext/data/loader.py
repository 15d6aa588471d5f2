"""A training loader that lets a resumed run continue exactly where the first run stopped.

When a run resumes, detectron2's loader starts its stream of images again, and its augmentations use
the random state of the worker processes. Here the batch of iteration i depends only on (seed, i): a
batch sampler in the main process forms the batches and can skip some, and the augmentation of each
sample is seeded with the position of the sample in the stream. The number of workers does not
matter.
"""

import contextlib
import logging
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .bad_images import BadImage, NamedErrors, add_bad_images, iterate_batches, take_bad_images

__all__ = [
    "ResumableBatchSampler",
    "TrainLoader",
    "build_sampler",
    "keep_random_state",
    "seed_everything",
    "skip_batches",
    "stream_seed",
]

# Gets a sample, and a function that returns the sample of a random other image.
Mix = Callable[[Any, Callable[[], Any]], Any]

logger = logging.getLogger(__name__)


def stream_seed(*entropy: int) -> int:
    """Mix non-negative integers into one 32-bit seed."""
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def seed_everything(seed: int, *, cuda: bool = True) -> None:
    """Seed `random`, NumPy and torch in this process; with `cuda`, also all GPUs."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - detectron2's augmentations draw from the global state
    if cuda:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def keep_random_state(gpus: Iterable[int] = ()) -> Iterator[None]:
    """Restore the generators of `random`, NumPy and torch after the block.

    Args:
        gpus: indices of the CUDA devices whose generators are restored too.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=list(gpus)):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


class ResumableBatchSampler:
    """Forms batches of (position in the stream, index), grouped by aspect ratio as in detectron2.

    Attributes:
        start: the number of the first batch that iteration yields; earlier batches are skipped.
    """

    def __init__(
        self, sampler: Iterable[int], batch_size: int, groups: Sequence[int] | None = None
    ) -> None:
        """Wrap a sampler.

        Args:
            sampler: an endless stream of indices, the same each time it is iterated.
            batch_size: images per batch of this process.
            groups: the group of each index; a batch holds images of one group. None: no groups.
        """
        self.sampler, self.batch_size, self.groups = sampler, batch_size, groups
        self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        buckets: dict[int, list[tuple[int, int]]] = {}
        formed = 0
        for position, index in enumerate(self.sampler):
            group = self.groups[index] if self.groups is not None else 0
            bucket = buckets.setdefault(group, [])
            bucket.append((position, int(index)))
            if len(bucket) == self.batch_size:
                if formed >= self.start:
                    yield list(bucket)
                formed += 1
                bucket.clear()


class _SeededDataset(Dataset):
    def __init__(
        self, dicts: Sequence[dict], mapper: NamedErrors, seed: int, mix: Mix | None, skip_bad: bool
    ) -> None:
        # Serialised, so that worker processes share the memory instead of copying it.
        self.dicts = DatasetFromList(list(dicts), copy=False)
        self.mapper, self.seed, self.mix, self.skip_bad = mapper, seed, mix, skip_bad
        self.rank = comm.get_rank()

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        position, index = key
        with keep_random_state():
            seed_everything(stream_seed(self.seed, self.rank, position), cuda=False)
            bad: dict[str, str] = {}
            sample = self._load(index, bad)
            if self.mix is not None and len(self) > 1:
                sample = self.mix(
                    sample, lambda: self._load(index + random.randrange(1, len(self)), bad)
                )
            return add_bad_images(sample, bad)

    def _load(self, index: int, bad: dict[str, str]) -> Any:
        """Return the sample of an image, or of the next image if it is rejected or skipped."""
        for offset in range(len(self.dicts)):
            record = self.dicts[(index + offset) % len(self.dicts)]
            try:
                sample = self.mapper(record)
            except BadImage as error:
                if not self.skip_bad:
                    raise
                bad[str(record.get("file_name"))] = str(error)
                continue
            if sample is not None:
                return sample
        reason = f", the last one for this reason: {list(bad.values())[-1]}" if bad else ""
        raise UserError(f"the data set mapper rejected every image{reason}")


def _outlive_signals(_: int) -> None:
    """Let a worker go on for a minute after a signal: training can finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))


def _find_group(record: dict) -> int:
    """Return 1 for a wide image, otherwise 0."""
    if not {"width", "height"} <= record.keys():
        raise UserError(
            f"{record.get('file_name', 'a record')}: expected width and height in the records of "
            f"the data set, got {sorted(record)}. Add them, or set "
            "DATALOADER.ASPECT_RATIO_GROUPING False"
        )
    return int(record["width"] > record["height"])


class TrainLoader:
    """Yields endless batches for `detectron2.engine.SimpleTrainer`: lists of mapped records.

    Attributes:
        last_batch: the last batch that was yielded, or None.
    """

    def __init__(
        self,
        dicts: Sequence[dict],
        mapper: Callable[[dict], Any],
        sampler: Iterable[int],
        *,
        batch_size: int,
        num_workers: int,
        seed: int,
        aspect_ratio_grouping: bool = True,
        mix: Mix | None = None,
        skip_bad: bool = False,
    ) -> None:
        """Build the loader.

        Args:
            dicts: the data set in detectron2's format, with `width` and `height` when grouping.
            mapper: turns a dict into a sample, for example `ImageMapper`.
            sampler: an endless stream of indices into `dicts` for this process. It depends only on
                the seed.
            batch_size: images per batch of this process.
            num_workers: number of loading processes; 0 loads in the main process. The batches do
                not depend on it.
            seed: the seed of the augmentations.
            aspect_ratio_grouping: put wide and tall images in separate batches, as detectron2 does.
            mix: mixes samples, such as `CopyPaste`. It gets a sample, and a function that returns
                the sample of a random other image. None: no change.
            skip_bad: replace an image that cannot be used by the next image of the data set.

        Raises:
            UserError: a record has no size, and its group depends on it.
        """
        groups = [_find_group(record) for record in dicts] if aspect_ratio_grouping else None
        named = NamedErrors(mapper, num_workers)
        self.dataset = _SeededDataset(dicts, named, seed, mix, skip_bad)
        self.batches = ResumableBatchSampler(sampler, batch_size, groups)
        self.num_workers = num_workers
        self.last_batch: list[Any] | None = None

    def __iter__(self) -> Iterator[list[Any]]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.batches,  # type: ignore[arg-type]  # any iterable of lists works
            num_workers=self.num_workers,
            collate_fn=list,
            worker_init_fn=_outlive_signals,
            pin_memory=torch.cuda.is_available(),
            # A separate generator: drawing the workers' base seed must not change the global state.
            generator=torch.Generator().manual_seed(0),
        )
        with contextlib.closing(iterate_batches(loader)) as batches:
            for batch in batches:
                self.last_batch = take_bad_images(batch)
                yield self.last_batch


def skip_batches(loader: Iterable[Any], number: int) -> None:
    """Let a training loader begin after the batches of the iterations that are done.

    Another loader than a `TrainLoader` cannot: then the log says so.
    """
    if isinstance(loader, TrainLoader):
        loader.batches.start = number
    elif number:
        logger.warning(
            "%s is not our TrainLoader: it does not skip the images that the run has seen, so the "
            "resumed run differs from an uninterrupted one.",
            type(loader).__name__,
        )


def build_sampler(cfg: CfgNode, dicts: list[dict], seed: int) -> Any:
    """Return the sampler that `DATALOADER.SAMPLER_TRAIN` names.

    Args:
        cfg: the config.
        dicts: the records of the training images.
        seed: the same on every process.

    Raises:
        UserError: the sampler is unknown.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dicts), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        # In detectron2's main branch the square root is an option; earlier versions always take it.
        loader = cfg.DATALOADER
        option = {"sqrt": loader.REPEAT_SQRT} if "REPEAT_SQRT" in loader else {}
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, **option
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(len(dicts), ratio, seed_shuffle=seed, seed_subset=seed)
    raise UserError(
        f"DATALOADER.SAMPLER_TRAIN: expected TrainingSampler, RepeatFactorTrainingSampler or "
        f"RandomSubsetTrainingSampler, got {name!r}"
    )
