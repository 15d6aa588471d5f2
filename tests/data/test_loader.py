"""The training loader: batch i depends on the seed and i only."""

import itertools

import pytest
import torch
from detectron2.data.samplers import TrainingSampler

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.loader import ResumableBatchSampler, TrainLoader, stream_seed

DICTS = [
    {"file_name": f"{i}.png", "width": 30 + 20 * (i % 3 == 0), "height": 40, "id": i}
    for i in range(10)
]


def random_mapper(record):
    """Stand for an augmentation: draw from the global generators."""
    import random

    import numpy as np

    return {
        "id": record["id"],
        "draw": (random.random(), np.random.rand(), torch.rand(1).item()),  # noqa: NPY002
    }


def loader(mapper=random_mapper, *, workers=0, seed=5, grouping=True, batch_size=2):
    return TrainLoader(
        DICTS, mapper, TrainingSampler(len(DICTS), seed=seed), batch_size=batch_size,
        num_workers=workers, seed=seed, aspect_ratio_grouping=grouping,
    )  # fmt: skip


def first(batches, n=8):
    return list(itertools.islice(iter(batches), n))


def test_the_same_seed_gives_the_same_batches_and_another_does_not():
    assert first(loader()) == first(loader())
    assert first(loader()) != first(loader(seed=6))


def test_the_number_of_workers_changes_nothing():
    assert first(loader(workers=2)) == first(loader(workers=0))


def test_starting_later_gives_the_later_batches():
    whole, resumed = loader(), loader()
    resumed.batches.start = 3
    assert first(resumed, 5) == first(whole, 8)[3:]


def test_augmentations_differ_from_sample_to_sample():
    draws = [sample["draw"] for batch in first(loader(), 15) for sample in batch]
    assert len(set(draws)) == len(draws)


def test_loading_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first(loader(), 3)
    assert torch.equal(torch.rand(2), expected)


def test_batches_hold_one_orientation_each_and_every_image_comes():
    batches = first(loader(), 40)
    for batch in batches:
        wide = {DICTS[sample["id"]]["width"] > 40 for sample in batch}
        assert len(wide) == 1
    assert {sample["id"] for batch in batches for sample in batch} == set(range(10))
    mixed = first(loader(grouping=False), 40)
    assert any(len({DICTS[sample["id"]]["width"] > 40 for sample in batch}) == 2 for batch in mixed)


def test_batch_sampler_by_hand():
    batches = ResumableBatchSampler(itertools.cycle([0, 1, 2]), 2, groups=[0, 1, 0])
    assert first(batches, 3) == [[(0, 0), (2, 2)], [(1, 1), (4, 1)], [(3, 0), (5, 2)]]


def test_an_unreadable_image_is_named():
    def broken(record):
        if record["id"] == 4:
            raise OSError("image file is truncated")
        return record

    expected = r"^cannot read image 4\.png: image file is truncated\. Fix or remove it\.$"
    for workers in (0, 1):  # a worker process sends its error with a traceback
        with pytest.raises(UserError, match=expected):
            first(loader(broken, workers=workers), 20)


def test_a_mapper_may_refuse_an_image():
    batches = first(loader(lambda record: None if record["id"] == 4 else record), 20)
    ids = [sample["id"] for batch in batches for sample in batch]
    assert 4 not in ids
    assert set(ids) == set(range(10)) - {4}
    with pytest.raises(UserError, match="every image"):
        first(loader(lambda record: None), 1)


def test_a_record_without_a_size_is_named_or_needs_none():
    records = [{"file_name": "a.png"}, {"file_name": "b.png"}]
    sampler = TrainingSampler(2, seed=1)
    options = {"batch_size": 2, "num_workers": 0, "seed": 1}
    with pytest.raises(UserError, match=r"a\.png: expected width and height .*ASPECT_RATIO"):
        TrainLoader(records, lambda record: record, sampler, **options)
    plain = TrainLoader(
        records, lambda record: record, sampler, **options, aspect_ratio_grouping=False
    )
    assert len(first(plain, 3)) == 3


def test_stream_seed_separates_its_arguments():
    assert len({stream_seed(*e) for e in ((0, 1), (1, 0), (1, 1), (0, 0), (0, 0, 1))}) == 5
