"""An FCIS model in `Predictor`, in tools/predict.py, and in bfloat16."""

import json
from pathlib import Path

import numpy as np
import predict as tool  # tools/ is on the path
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util
from tiny_fcis import fcis_cfg, fcis_model, image_of
from tiny_model import picture

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.modeling.precision import inference_autocast


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run's config.yaml and weights, as training leaves them."""
    folder = tmp_path_factory.mktemp("run")
    cfg = fcis_cfg()
    cfg.MASK_RCNN_EXT.CLASS_NAMES = ["cat", "dog", "cow"]
    cfg.MASK_RCNN_EXT.CATEGORY_IDS = [2, 7, 90]
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": fcis_model(cfg, seed=1).state_dict()}, folder / "model_final.pth")
    return folder


def predictor_of(folder: Path, **options) -> Predictor:
    return Predictor(folder / "config.yaml", folder / "model_final.pth", **options)


def test_a_batch_of_several_sizes_gives_what_the_images_give_one_by_one(run_folder):
    predictor = predictor_of(run_folder, batch_size=4)
    sizes = [(90, 130), (90, 130), (64, 64), (130, 90), (90, 130), (64, 70)]
    images = [picture(*size, seed=i) for i, size in enumerate(sizes)]
    for image, together in zip(images, predictor(images), strict=True):
        alone = predictor(image)
        assert together.image_size == alone.image_size == image.shape[:2]
        assert len(alone) > 3
        assert torch.equal(together.pred_classes, alone.pred_classes)
        assert torch.allclose(together.scores, alone.scores, atol=1e-5)
        assert (together.pred_masks == alone.pred_masks).float().mean() > 0.999


def test_masks_can_be_left_out(run_folder):
    (found,) = predictor_of(run_folder).stream_packed([picture(64, 64)], masks=False)
    assert len(found)
    assert not found.has("pred_masks")


def test_masks_and_boxes_are_in_pixels_of_the_image(run_folder):
    """The image is about twice as large as the network sees it, but not by a whole factor."""
    predictor = predictor_of(run_folder)
    image = picture(129, 187)
    found = predictor(image)
    assert len(found) > 3
    assert found.pred_masks.shape == (len(found), 129, 187)
    assert found.pred_masks.dtype == torch.bool
    for mask, box in zip(found.pred_masks, found.pred_boxes.tensor.tolist(), strict=True):
        rows, columns = (np.flatnonzero(mask.any(dim=axis)) for axis in (1, 0))
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert found.pred_boxes.tensor[:, 2].max() > 96  # the width that the network sees
    seen = Image.fromarray(image).resize((93, 64), Image.Resampling.BILINEAR)
    small = predictor(np.array(seen))
    area, small_area = (f.pred_masks[0].sum().item() for f in (found, small))
    assert area == pytest.approx(small_area * (129 * 187) / (64 * 93), rel=0.1)


def test_the_tool_writes_coco_results_and_pictures(run_folder, tmp_path):
    for name, size in (("a.png", (60, 80)), ("b.png", (100, 70))):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture(*size)).save(tmp_path / "in" / name)
    argv = [str(tmp_path / "in"), "--config-file", str(run_folder / "config.yaml")]
    argv += ["--weights", str(run_folder / "model_final.pth"), "--output", str(tmp_path / "out")]
    assert tool.main([*argv, "--score-threshold", "0"]) == 0
    results = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    images = json.loads((tmp_path / "out/images.json").read_text())
    assert [(i["file_name"], i["height"]) for i in images["images"]] == [
        ("a.png", 60),
        ("b.png", 100),
    ]
    assert [c["id"] for c in images["categories"]] == [2, 7, 90]
    fields = {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert all(set(result) == fields for result in results)
    predictor = predictor_of(run_folder, score_threshold=0)
    for number, name in enumerate(("a.png", "b.png"), start=1):
        instances = predictor(tmp_path / "in" / name)
        mine = [result for result in results if result["image_id"] == number]
        assert len(mine) == len(instances) > 3
        masks = [mask_util.decode(result["segmentation"]).astype(bool) for result in mine]
        assert (np.stack(masks) == instances.pred_masks.numpy()).all()
        assert [r["score"] for r in mine] == pytest.approx(instances.scores.tolist(), abs=1e-6)
        assert (tmp_path / "out/pictures" / name).stat().st_size > 0
    middle = sorted(result["score"] for result in results)[len(results) // 2]
    assert tool.main([*argv, "--score-threshold", repr(middle), "--no-pictures"]) == 0
    some = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert some == [result for result in results if result["score"] >= middle]


def test_soft_masks_are_refused_before_the_first_image(run_folder, tmp_path, capsys):
    Image.fromarray(picture(60, 80)).save(tmp_path / "a.png")
    argv = [str(tmp_path / "a.png"), "--config-file", str(run_folder / "config.yaml")]
    argv += ["--weights", str(run_folder / "model_final.pth"), "--output", str(tmp_path / "out")]
    assert tool.main([*argv, "--write", "soft"]) == 2
    assert "--write soft: the model gives masks without probabilities" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pooler", ["PSROIPool", "PSROIAlign"])
def test_bfloat16_ends_before_the_pooling(pooler):
    """The convolutions run in bfloat16; what RoIs see, and all that follows, is float32."""
    cfg = fcis_cfg("MODEL.FCIS.POOLER_TYPE", pooler, amp=True)
    model = fcis_model(cfg)
    heads, convolved, boxes, rois = model.roi_heads, {}, [], []
    for name in ("conv_new", "score_maps", "box_maps"):
        getattr(heads, name).register_forward_hook(
            lambda _m, _i, output, name=name: convolved.update({name: output.dtype})
        )
    heads.pooler.register_forward_hook(lambda _m, inputs, output: boxes.append((inputs[1], output)))
    image = image_of(64, 96)
    with torch.no_grad(), inference_autocast(cfg):
        rois = model.inference([image], do_postprocess=False)[0]
        found = model([image])[0]["instances"]
    assert set(convolved.values()) == {torch.bfloat16}, "the heads still run in bfloat16"
    for corners, pooled in boxes:
        assert pooled.dtype == corners.dtype == torch.float32
    results = [corners for corners, _ in boxes] + [rois.proposal_boxes.tensor, rois.class_probs]
    for tensor in (*results, rois.roi_masks, found.scores):
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, tensor.bfloat16().float()), "rounded to bfloat16"
    assert found.pred_boxes.tensor.dtype == torch.float32
    assert torch.isfinite(found.pred_boxes.tensor).all()
    assert torch.allclose(rois.class_probs.sum(dim=1), torch.ones(len(rois)), atol=1e-5)
    with torch.no_grad():
        exact = model.inference([image], do_postprocess=False)[0]
    assert len(found) > 3
    best = [found.scores.max().item(), exact.class_probs[:, :-1].max().item()]
    assert best[0] == pytest.approx(best[1], abs=0.05)
