"""Predictions without tensors are saved as `torch.save` would, piece by piece."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mask_rcnn_ext.evaluation.plain_predictions import (
    PackedDetections,
    save_plain_predictions,
    save_results,
)

RLE = {"size": [4, 6], "counts": "05b0"}
RESULT = {"image_id": "é/1", "category_id": 3, "bbox": [0.5, 1.0, 2.25, 3e-7], "score": 0.75}
PREDICTIONS = [
    {"image_id": 7, "instances": [{**RESULT, "segmentation": RLE}, {**RESULT, "keypoints": [1.0]}]},
    {"image_id": 2**70, "instances": []},
]


@pytest.mark.parametrize("predictions", [PREDICTIONS, []], ids=["some", "none"])
def test_the_file_is_the_one_of_torch_save(predictions, tmp_path):
    path, buffer = tmp_path / "saved.pth", io.BytesIO()
    save_plain_predictions(path, predictions)
    torch.save(predictions, buffer)
    assert torch.load(path, weights_only=True) == predictions
    with zipfile.ZipFile(path) as saved, zipfile.ZipFile(buffer) as expected:
        names = [{name.split("/", 1)[1] for name in each.namelist()} for each in (saved, expected)]
    assert names[0] == names[1]
    packed = [{**each, "instances": PackedDetections(each["instances"])} for each in predictions]
    save_plain_predictions(path, packed)
    assert torch.load(path, weights_only=True) == predictions


def test_packed_detections_stay_as_they_are():
    packed = PackedDetections(PREDICTIONS[0]["instances"])
    for detection in packed:
        detection.clear()
    packed[1].clear()
    assert len(packed) == 2
    numbers = {"image_id": np.int64(7), "score": np.float64(0.5), "bbox": [np.float32(2.5)]}
    (plain,) = PackedDetections([numbers])
    assert plain == {"image_id": 7, "score": 0.5, "bbox": [2.5]}
    assert [type(v) for v in (plain["image_id"], plain["score"], *plain["bbox"])] == [
        int,
        float,
        float,
    ]
    assert packed == PREDICTIONS[0]["instances"]
    assert packed != PREDICTIONS[0]["instances"][:1]


def test_packed_detections_run_no_code():
    packed = PackedDetections([])
    packed._packed = pickle.dumps(print)
    with pytest.raises(pickle.UnpicklingError, match=r"plain values, got builtins\.print"):
        list(packed)


@pytest.mark.parametrize(
    "images",
    [[], [0], [1], [0, 2], [2, 0], [0, 0], [1, 0, 2, 0, 1]],
    ids=lambda counts: "-".join(map(str, counts)) or "none",
)
def test_the_results_are_one_list(images, tmp_path):
    found = [[{**RESULT, "segmentation": RLE}] * count for count in images]
    save_results(tmp_path / "results.json", iter(found))
    joined = [result for detections in found for result in detections]
    assert (tmp_path / "results.json").read_text() == json.dumps(joined)
