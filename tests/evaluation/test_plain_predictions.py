"""Predictions without tensors are saved as `torch.save` saves them."""

import io
import json
import zipfile

import pytest
import torch

from mask_rcnn_ext.evaluation.plain_predictions import save_plain_predictions, save_results

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
    saved, expected = (read_records(file) for file in (path, buffer))
    del saved[".data/serialization_id"], expected[".data/serialization_id"]  # of the file's name
    assert saved == expected


@pytest.mark.parametrize(
    "images",
    [[], [0], [1], [0, 2], [2, 0], [0, 0], [1, 0, 2, 0, 1]],
    ids=lambda counts: "-".join(map(str, counts)) or "none",
)
def test_the_results_are_one_list(images, tmp_path):
    predictions = [{"instances": [{**RESULT, "segmentation": RLE}] * count} for count in images]
    save_results(tmp_path / "results.json", predictions)
    joined = [result for prediction in predictions for result in prediction["instances"]]
    assert (tmp_path / "results.json").read_text() == json.dumps(joined)


def read_records(file):
    with zipfile.ZipFile(file) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
