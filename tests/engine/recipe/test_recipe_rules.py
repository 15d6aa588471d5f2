"""The rules of `--auto` on data whose answers can be counted by hand."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as stock_get_cfg
from detectron2.structures import BoxMode

from mask_rcnn_ext import UserError, derive_recipe, get_cfg
from mask_rcnn_ext.engine.recipe.facts import Machine, collect_facts
from mask_rcnn_ext.engine.recipe.plan import Plan
from mask_rcnn_ext.engine.recipe.schedule import choose_length

CPU = Machine("cpu", 16 * 10**9, threads=2)


def make_dicts(boxes, *, images=40, size=(300, 400), labels=(0,)):
    """Return images (height, width) that all show boxes (height, width), labels in turn."""
    found = []
    for index in range(images):
        annotations = [
            {
                "bbox": [0, 0, width, height],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": labels[(index + i) % len(labels)],
            }
            for i, (height, width) in enumerate(boxes)
        ]
        found.append({"height": size[0], "width": size[1], "annotations": annotations})
    return found


def make_cfg(*pairs):
    """Return a small FPN config for images of 160 pixels, 4 at a time."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("INPUT.MIN_SIZE_TRAIN", "(160,)", "INPUT.MAX_SIZE_TRAIN", "320"),
            *("INPUT.MIN_SIZE_TEST", "160", "INPUT.MAX_SIZE_TEST", "320"),
            *("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']"),
            *("MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32], [64], [128], [256]]"),
            *("SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.01"),
            *("SOLVER.MAX_ITER", "1000", "SOLVER.STEPS", "(600, 900)"),
            *pairs,
        ]
    )
    return cfg


def derive(dicts, *pairs, machine=CPU, cfg=None, **options):
    """Return {key: value} of a recipe, and {key: reason}."""
    rows = derive_recipe(cfg or make_cfg(*pairs), dicts, machine=machine, **options)
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row.value for row in rows}, {row.key: row.reason for row in rows}


LARGE = make_dicts([(60, 60), (90, 90)])  # 32 and 48 pixels in images of 160


def test_nothing_changes_where_nothing_has_to():
    cfg = make_cfg()
    before = cfg.dump()
    values, reasons = derive(LARGE, cfg=cfg)
    assert cfg.dump() == before
    assert values["INPUT.MIN_SIZE_TRAIN"] == (160,)
    assert values["MODEL.ANCHOR_GENERATOR.SIZES"] == [[16], [32], [64], [128], [256]]
    assert values["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] == [[0.5, 1.0, 2.0]]
    assert values["TEST.DETECTIONS_PER_IMAGE"] == 100
    assert values["SOLVER.BASE_LR"] == 0.01
    assert values["DATALOADER.SAMPLER_TRAIN"] == "TrainingSampler"
    assert all(reasons.values())


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        pytest.param(12, (300, 400), 160, id="6.4 pixels are enough"),
        pytest.param(9, (300, 400), 224, id="9 * 224 / 300 = 6.7, 192 gives 5.8"),
        pytest.param(2, (300, 400), 608, id="never 6: twice the images' own side of 300"),
        pytest.param(6, (3000, 4000), 640, id="a CPU's limit"),
        pytest.param(20, (60, 60), 128, id="small images are not enlarged more than twice"),
    ],
)
def test_image_size(box, size, expected):
    values, _ = derive(make_dicts([(box, box)], size=size))
    assert values["INPUT.MIN_SIZE_TRAIN"] == (expected,)
    assert values["INPUT.MIN_SIZE_TEST"] == expected
    assert values["INPUT.MAX_SIZE_TRAIN"] == values["INPUT.MAX_SIZE_TEST"] == 2 * expected


def test_a_long_image_counts_as_it_is_resized():
    """4000 pixels become 320: factor 0.08, not 160 / 1000. 75 pixels are then exactly 6."""
    dicts = make_dicts([(75, 75)], size=(1000, 4000))
    assert derive(dicts)[0]["INPUT.MIN_SIZE_TEST"] == 160
    smaller = make_dicts([(74, 74)], size=(1000, 4000))
    assert derive(smaller)[0]["INPUT.MIN_SIZE_TEST"] == 192


def test_image_sizes_of_training_keep_their_proportions():
    pairs = ["INPUT.MIN_SIZE_TRAIN", "(128, 160, 192)"]
    values, reasons = derive(make_dicts([(6, 6)]), *pairs)  # 6 * 320 / 300 = 6.4, 288 gives 5.8
    assert values["INPUT.MIN_SIZE_TEST"] == 320
    assert values["INPUT.MIN_SIZE_TRAIN"] == (256, 320, 384)
    assert reasons["INPUT.MIN_SIZE_TEST"] == "as in training"
    values, reasons = derive(make_dicts([(6, 6)]), "INPUT.MIN_SIZE_TRAIN", "(128,)")
    assert values["INPUT.MIN_SIZE_TRAIN"] == (256,)
    assert reasons["INPUT.MIN_SIZE_TEST"].startswith("as many times the size in training")


@pytest.mark.parametrize(
    "unresized", [["INPUT.MIN_SIZE_TEST", "0"], ["INPUT.MIN_SIZE_TRAIN", "(0,)"]]
)
def test_no_size_is_chosen_where_the_user_wants_no_resizing(unresized):
    given = {"cfg": make_cfg(*unresized), "given": unresized[:1]}
    values, _ = derive(make_dicts([(9, 9)]), **given, reference=make_cfg())
    assert not any(key.startswith("INPUT.") for key in values)
    assert "MODEL.ANCHOR_GENERATOR.SIZES" in values


def test_anchors_are_even_steps_and_not_finer_than_the_cells():
    """Squares of 5 to 80 pixels: the percentiles are near the ends, in five even steps."""
    sides = np.geomspace(5, 80, 101)
    cfg = make_cfg("INPUT.MIN_SIZE_TRAIN", "(0,)", "MODEL.ANCHOR_GENERATOR.SIZES",
                   "[[200], [300], [400], [500], [600]]")  # fmt: skip
    values, reasons = derive(make_dicts([(s, s) for s in sides]), cfg=cfg)
    low, high = 5 * 16**0.05, 5 * 16**0.95
    steps = [low * (high / low) ** (i / 4) for i in range(5)]  # 5.7, 10.7, 20, 37, 70
    floors = [8, 16, 32, 64, 128]  # two cells of p2 to p6
    expected = [[max(round(s), f)] for s, f in zip(steps, floors, strict=True)]
    assert values["MODEL.ANCHOR_GENERATOR.SIZES"] == expected
    assert "(before: 0%)" in reasons["MODEL.ANCHOR_GENERATOR.SIZES"]
    assert "INPUT.MIN_SIZE_TRAIN" not in values  # the config does not resize


def test_one_list_of_anchors_stays_one_list():
    pairs = ["MODEL.RPN.IN_FEATURES", "['res4']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[300, 400]]"]
    values, _ = derive(make_dicts([(150, 150), (250, 250)]), *pairs)  # 80 and 133 pixels
    assert values["MODEL.ANCHOR_GENERATOR.SIZES"] == [[80, 133]]


def test_aspect_ratios_change_only_for_long_objects():
    # 1:4 against the config's 1:2 is a factor of 2, which an anchor of the same area overlaps by
    # 1 / (2 * sqrt(2) - 1) = 0.55. 1:5 is a factor of 2.5: 0.46.
    key = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
    assert derive(make_dicts([(200, 50)]))[0][key] == [[0.5, 1.0, 2.0]]
    values, reasons = derive(make_dicts([(200, 40), (40, 200)]))
    assert values[key] == [[0.2, 1.0, 5.0]]
    assert "100%" in reasons[key]


def test_crowded_images():
    """One image with 130 objects: 162.5, so 200 detections, and two proposals for each."""
    dicts = make_dicts([(60, 60)] * 30)
    dicts[3]["annotations"] = dicts[3]["annotations"][:1] * 130
    pairs = ["MODEL.RPN.POST_NMS_TOPK_TEST", "100", "MODEL.RPN.PRE_NMS_TOPK_TEST", "6000",
             "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "64"]  # fmt: skip
    values, _ = derive(dicts, *pairs)
    assert values["TEST.DETECTIONS_PER_IMAGE"] == 200
    assert values["MODEL.RPN.POST_NMS_TOPK_TEST"] == 400
    assert values["MODEL.RPN.PRE_NMS_TOPK_TEST"] == 6000
    assert values["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"] == 128  # a quarter are 30 objects: 120


@pytest.mark.parametrize(
    ("machine", "images", "expected"),
    [
        pytest.param(Machine("cpu", 10**11, threads=1), 400, 4, id="one thread"),
        pytest.param(Machine("cpu", 10**11, threads=12), 400, 8, id="12 threads"),
        pytest.param(Machine("cpu", 10**11, threads=96), 400, 16, id="96 threads"),
        pytest.param(Machine("cuda", 10**11), 400, 16, id="a GPU"),
        # 160 x 213.3 pixels and 4000 bytes each are 137 MB; half of 600 MB holds two.
        pytest.param(Machine("cpu", 6 * 10**8, threads=8), 400, 2, id="memory of a CPU"),
        pytest.param(Machine("cuda", 10**9), 400, 4, id="80 % of a GPU's 1 GB"),
        pytest.param(Machine("cuda", 10**9, processes=3), 400, 15, id="three GPUs: 17 fit"),
        pytest.param(Machine("cuda", 10**11), 40, 4, id="40 images: 8 iterations of 4"),
        pytest.param(Machine("cuda", 10**11), 3, 2, id="three images"),
    ],
)
def test_batch_size(machine, images, expected):
    dicts = make_dicts([(60, 60)], images=images)
    assert derive(dicts, machine=machine)[0]["SOLVER.IMS_PER_BATCH"] == expected


@pytest.mark.parametrize(("optimizer", "expected"), [("SGD", 0.04), ("AdamW", 0.02)])
def test_learning_rate(optimizer, expected):
    """Four times the batch: four times the rate, or twice with AdamW."""
    dicts = make_dicts([(60, 60)], images=400)
    gpu = Machine("cuda", 10**11)
    values, _ = derive(dicts, "MASK_RCNN_EXT.OPTIMIZER", optimizer, machine=gpu)
    assert values["SOLVER.IMS_PER_BATCH"] == 16
    assert values["SOLVER.BASE_LR"] == expected


@pytest.mark.parametrize(
    ("images", "epochs", "iterations", "steps", "warmup"),
    [
        pytest.param(400, None, 1200, (720, 1080), 120, id="12 epochs"),
        pytest.param(40, None, 500, (300, 450), 50, id="few images: 500 iterations"),
        pytest.param(400, 3, 300, (180, 270), 30, id="3 epochs are 3 epochs"),
        pytest.param(401, 1, 101, (61, 91), 10, id="the last batch counts"),
        pytest.param(40, 0.2, 2, (1,), 1, id="0.6 and 0.9 of 2: one step, the end is none"),
        pytest.param(40, 0.1, 1, (), 1, id="one iteration"),
    ],
)
def test_length(images, epochs, iterations, steps, warmup):
    dicts = make_dicts([(60, 60)], images=images)
    values, _ = derive(dicts, "TEST.EVAL_PERIOD", "500", epochs=epochs)
    assert values["SOLVER.MAX_ITER"] == iterations
    assert values["SOLVER.STEPS"] == steps
    assert values["SOLVER.WARMUP_ITERS"] == warmup
    assert values["TEST.EVAL_PERIOD"] == max(round(iterations / 2), 1)


def test_a_schedule_has_only_keys_of_the_length():
    plan = Plan(make_cfg(), make_cfg(), ())
    choose_length(plan, 400, 3)
    assert {row.key for row in plan.rows} == {
        f"SOLVER.{name}" for name in ("MAX_ITER", "STEPS", "WARMUP_ITERS")
    }
    assert plan["SOLVER.MAX_ITER"] == 300


def test_images_of_rare_classes_are_repeated():
    """Class 0 is in 40 images, 1 in 20, 2 in 2: the median share is 0.5, class 2 has 0.05."""
    dicts = make_dicts([(60, 60)])
    for count, label in ((20, 1), (2, 2)):
        for record in dicts[:count]:
            record["annotations"].append({**record["annotations"][0], "category_id": label})
    values, _ = derive(dicts)
    assert values["DATALOADER.SAMPLER_TRAIN"] == "RepeatFactorTrainingSampler"
    assert values["DATALOADER.REPEAT_THRESHOLD"] == 0.5
    del dicts[1]["annotations"][-1]  # class 2 is in one image: 16 * 0.025, so 4 times at most
    assert derive(dicts)[0]["DATALOADER.REPEAT_THRESHOLD"] == 0.4


def test_what_the_user_has_set_stays_and_the_rest_follows():
    cfg = make_cfg("SOLVER.IMS_PER_BATCH", "8", "INPUT.MIN_SIZE_TRAIN", "(300,)")
    values, reasons = derive(
        make_dicts([(10, 10)]),
        cfg=cfg,
        reference=make_cfg(),
        given=["SOLVER.IMS_PER_BATCH", "INPUT.MIN_SIZE_TRAIN"],
    )
    assert values["SOLVER.IMS_PER_BATCH"] == 8
    assert values["SOLVER.BASE_LR"] == 0.02  # the reference is 0.01 for 4
    assert values["INPUT.MIN_SIZE_TRAIN"] == (300,)
    assert values["INPUT.MIN_SIZE_TEST"] == 300
    assert reasons["SOLVER.IMS_PER_BATCH"] == reasons["INPUT.MIN_SIZE_TRAIN"] == "yours"
    assert reasons["SOLVER.BASE_LR"] != "yours"


def test_crowds_do_not_count():
    dicts = make_dicts([(60, 60)])
    crowd = {**dicts[0]["annotations"][0], "bbox": [0, 0, 1, 1], "iscrowd": 1, "category_id": 5}
    for record in dicts:
        record["annotations"] += [crowd] * 200
    facts = collect_facts(dicts)
    assert facts.objects_per_image.tolist() == [1] * 40
    assert dict(facts.class_images) == {0: 1.0}


def test_boxes_of_both_conventions_are_read():
    dicts = make_dicts([(60, 40)])
    dicts[0]["annotations"][0].update(bbox=[10, 20, 50, 80], bbox_mode=BoxMode.XYXY_ABS)
    assert np.unique(collect_facts(dicts).box_sizes, axis=0).tolist() == [[60, 40]]


def test_errors():
    with pytest.raises(UserError, match="no object"):
        derive_recipe(make_cfg(), make_dicts([]), machine=CPU)
    with pytest.raises(UserError, match="--epochs: expected a positive number, got -1"):
        derive_recipe(make_cfg(), LARGE, epochs=-1, machine=CPU)


def test_a_config_for_a_gpu_is_planned_for_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cfg in (make_cfg(), stock_get_cfg()):  # MODEL.DEVICE is cuda
        on_cpu = cfg.clone()
        on_cpu.MODEL.DEVICE = "cpu"
        assert derive_recipe(cfg, LARGE) == derive_recipe(on_cpu, LARGE)
        assert cfg.MODEL.DEVICE == "cuda"
    cfg.MODEL.DEVICE = "gpu"
    with pytest.raises(UserError, match="device: expected 'cpu'"):
        derive_recipe(cfg, LARGE)
