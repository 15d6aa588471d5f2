"""4-step alternating training: what is shared, what each step trains, resuming, the mistakes."""

import shlex
import shutil

import pytest
import torch
import train_alternating
from small_runs import (
    evaluate,
    read_error,
    read_predictions,
    read_results,
    read_stamps,
    read_weights,
    same,
    write_data,
)
from support import REPO, SMALL, TINY_CONFIG

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.checkpoint.description import read_config
from mask_rcnn_ext.recipes import two_stage
from mask_rcnn_ext.recipes.alternating import (
    STEP_FOLDERS,
    StepConfigs,
    join_steps,
    make_step_configs,
)
from mask_rcnn_ext.recipes.two_stage import RPNStage

STAGES = [
    *SMALL,
    "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']",  # the RPN's own, but for p6
    "SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.IMS_PER_BATCH", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), train=4, val=2)


def train(folder, flags, *options: str, keys=()) -> int:
    head = ["--config-file", TINY_CONFIG, *flags, *options]
    return train_alternating.main([*head, *STAGES, "OUTPUT_DIR", str(folder), *keys])


@pytest.fixture(scope="module")
def run(tmp_path_factory, flags):
    """A finished run; tests that change it take a copy."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert train(out, flags) == 0
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "out")


def weights(folder, part: str = "") -> dict[str, torch.Tensor]:
    return read_weights(folder / "model_final.pth", part)


def changed(a, b) -> set[str]:
    assert a.keys() == b.keys()
    return {key for key in a if not torch.equal(a[key], b[key])}


def test_the_network_is_made_of_steps_2_3_and_4(run):
    first, detector, rpn, heads = (run / folder for folder in STEP_FOLDERS)
    whole = weights(run)
    assert same(weights(run, "backbone."), weights(detector, "backbone."))
    assert same(weights(run, "proposal_generator."), weights(rpn, "proposal_generator."))
    assert same(weights(run, "roi_heads."), weights(heads, "roi_heads."))
    parts = ("backbone.", "proposal_generator.", "roi_heads.")
    assert {key.partition(".")[0] + "." for key in whole} == set(parts)
    moved = changed(weights(first, "backbone."), weights(run, "backbone."))
    learned = ("conv1.weight", "running_mean")
    assert all(k in moved for k in weights(run, "backbone.") if k.endswith(learned))
    for part, before in (("roi_heads.", detector), ("proposal_generator.", first)):
        moved = changed(weights(before, part), weights(run, part))
        assert moved >= {key for key in weights(run, part) if key.endswith(".weight")}, part


@pytest.mark.parametrize("folder", STEP_FOLDERS[2:])
def test_steps_3_and_4_leave_features_and_their_statistics(run, folder):
    before, after = (weights(run / f, "backbone.") for f in (STEP_FOLDERS[1], folder))
    assert any(key.endswith("running_mean") for key in after)
    assert any(key.endswith("num_batches_tracked") for key in after)
    assert same(before, after)
    counters = [
        v for k, v in weights(run / STEP_FOLDERS[3]).items() if k.endswith("batches_tracked")
    ]
    assert {int(count) for count in counters} == {2, 4}  # of the backbone, of the heads


def test_a_run_leaves_what_every_run_has(run):
    for folder in (run, *(run / f for f in STEP_FOLDERS)):
        for name in ("config.yaml", "model_final.pth", "results.json"):
            assert (folder / name).stat().st_size > 0, name
    assert (run / "inference/own_val/coco_instances_results.json").is_file()
    assert not list(run.rglob(".mask_rcnn_ext-*"))
    cfg = load_config(str(run / "config.yaml"))
    assert not cfg.MODEL.LOAD_PROPOSALS
    assert (cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MASK_RCNN_EXT.FREEZE) == ("RPN", [])
    results = read_results(run)
    assert set(results) == {"bbox", "segm", "run"}
    steps = [read_results(run / folder)["run"] for folder in STEP_FOLDERS]
    total = sum(step["train_seconds"] for step in steps)
    assert results["run"]["train_seconds"] == pytest.approx(total)
    assert results["run"]["eval_seconds"] >= sum(step["eval_seconds"] for step in steps)
    assert results["run"]["peak_memory_mb"] >= max(step["peak_memory_mb"] for step in steps)
    assert read_config(run / "model_final.pth").MASK_RCNN_EXT.CLASS_NAMES == ["cat", "dog"]
    log = (run / "log.txt").read_text()
    places = [log.index(f"Step {number} of 4") for number in (1, 2, 3, 4)]
    assert places == sorted(places)
    assert places[3] < log.index("The whole network")


def test_each_detector_trains_on_the_proposals_of_the_rpn_before_it(run):
    for rpn, detector in (STEP_FOLDERS[:2], STEP_FOLDERS[2:]):
        for split in ("train", "val"):
            assert (run / rpn / f"proposals/own_{split}.pkl").stat().st_size > 0
        (file,) = load_config(str(run / detector / "config.yaml")).DATASETS.PROPOSAL_FILES_TRAIN
        assert file == str(run / rpn / "proposals/own_train.pkl")


def test_eval_only_repeats_the_result(run, tmp_path):
    assert evaluate(run, tmp_path / "eval") == 0
    again, ours = map(read_predictions, (tmp_path / "eval", run))
    assert len(ours) > 0
    assert again == ours


def test_a_finished_run_is_left_alone(copy, flags):
    before = read_stamps(copy)
    assert train(copy, flags, "--resume") == 0
    assert read_stamps(copy) == before
    log = (copy / "log.txt").read_text()
    assert log.count("done already, skipped") == 4 + 4 + 1  # steps, proposals, the whole network


def test_an_interrupted_step_goes_on_and_what_depends_on_it_is_made_anew(copy, run, flags):
    rpn = copy / STEP_FOLDERS[2]
    (rpn / "last_checkpoint").write_text("model_0000000.pth")
    before = read_stamps(copy)
    assert train(copy, flags, "--resume") == 0
    assert {path for path, stamp in read_stamps(copy).items() if stamp != before[path]} == {
        "step3_rpn/model_0000001.pth",
        *(f"step3_rpn/{name}" for name in ("model_final.pth", "proposals/own_train.pkl")),
        "step3_rpn/proposals/own_val.pkl",
        *(f"step4_detector/model_{name}.pth" for name in ("0000000", "0000001", "final")),
        "model_final.pth",
    }
    log = (copy / "log.txt").read_text()
    assert "Step 4 of 4, the heads on fixed features, " in log
    assert "starts again, since it was made with " in log
    for folder in ("", *STEP_FOLDERS):
        assert same(weights(copy / folder), weights(run / folder)), folder


def test_final_weights_of_an_earlier_run_do_not_count_as_finished(copy):
    folder = copy / STEP_FOLDERS[0]
    cfg = load_config(str(folder / "config.yaml"), ["OUTPUT_DIR", str(folder)])
    stage = RPNStage("the RPN", cfg, resume=True)
    assert stage.state() == "done"
    (folder / "last_checkpoint").write_text("model_0000000.pth")  # of one that started anew
    assert stage.state() == "interrupted"


def steps_of(config: str, out, *keys: str, rpn_opts=()) -> StepConfigs:
    keys = [*SMALL, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out), *keys]
    return make_step_configs(load_config(str(REPO / "configs" / config), keys), list(rpn_opts))


def test_the_command_in_the_header_has_the_papers_schedules(tmp_path, monkeypatch):
    """Of PASCAL VOC: 80k iterations of the RPN on 1 image, 40k of the detector on 2 of 64 RoIs."""
    monkeypatch.setattr(two_stage, "require_datasets", lambda names: None)
    header = (REPO / "configs/lineage/faster_rcnn_VGG16.yaml").read_text()
    command = header.partition("tools/train_alternating.py")[2].partition("# From the paper")[0]
    words = shlex.split(command.replace("\\\n#", ""))
    keys = words[words.index("--rpn-opts") + 2 :]
    cfg = load_config(
        str(REPO / words[1]), ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *keys]
    )
    steps = make_step_configs(cfg, words[words.index("--rpn-opts") + 1].split())
    assert [step.SOLVER.MAX_ITER for step in steps] == [80_000, 40_000, 80_000, 40_000]
    assert [step.SOLVER.STEPS for step in steps] == [(60_000,), (30_000,)] * 2
    assert [step.SOLVER.IMS_PER_BATCH for step in steps] == [1, 2, 1, 2]
    assert steps.detector.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 64
    assert [step.MASK_RCNN_EXT.FREEZE for step in steps] == [[], [], ["backbone"], ["backbone"]]


def test_steps_of_different_runs_do_not_become_one_network(copy):
    path = copy / STEP_FOLDERS[2] / "model_final.pth"
    content = torch.load(path, weights_only=True)
    content["model"]["backbone.bottom_up.stem.conv1.weight"] += 1
    torch.save(content, path)
    with pytest.raises(UserError, match="expected steps of one run"):
        join_steps(steps_of("shapes/mask_rcnn_tiny_FPN.yaml", copy))


def test_layers_that_one_reads_alone_are_trained_with_it(tmp_path):
    """FPN convolutions of levels that only the RPN reads; FCIS's res5, which only the heads do."""
    steps = steps_of("shapes/mask_rcnn_tiny_FPN.yaml", tmp_path)  # heads on p2
    fixed = ["fpn_lateral2", "fpn_output2", "fpn_lateral3", "fpn_lateral4", "fpn_lateral5"]
    assert frozen(steps.shared_rpn) == {f"backbone.{name}" for name in [*fixed, "bottom_up"]}
    assert frozen(steps.shared_detector) == {"backbone"}
    conv, head = "backbone.fpn_output3.weight", "roi_heads.box_head.fc1.weight"
    for folder, value, keys in (
        (STEP_FOLDERS[2], 3.0, [conv]),
        (STEP_FOLDERS[3], 4.0, [conv, head]),
    ):
        (tmp_path / folder).mkdir()
        model = {key: torch.tensor(value) for key in keys}
        torch.save({"model": model}, tmp_path / folder / "model_final.pth")
    assert join_steps(steps) == {conv: 3.0, head: 4.0}

    steps = steps_of("shapes/fcis_tiny.yaml", tmp_path)
    assert frozen(steps.shared_rpn) == {"backbone"}
    shared = {f"backbone.{name}" for name in ("stem", "res2", "res3", "res4")}
    assert frozen(steps.shared_detector) == shared


def frozen(cfg) -> set[str]:
    return set(cfg.MASK_RCNN_EXT.FREEZE)


@pytest.mark.parametrize(
    ("keys", "rpn_opts", "message"),
    [
        (["MODEL.LOAD_PROPOSALS", "True"], [], "reads stored proposals already"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], [], "has no second stage"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], [], "has no second stage"),
        ([], ["MODEL.RPN.CONV_DIMS", "[8,8]"], r"MODEL.RPN.CONV_DIMS is \[8, 8\] for the RPN"),
        ([], ["OUTPUT_DIR", "elsewhere"], "in the folder step1_rpn"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else "",
)
def test_configs_that_are_not_of_one_network_with_an_rpn(tmp_path, keys, rpn_opts, message):
    with pytest.raises(UserError, match=message):
        steps_of("shapes/mask_rcnn_tiny_FPN.yaml", tmp_path, *keys, rpn_opts=rpn_opts)


def freeze(*parts: str) -> list[str]:
    return ["MASK_RCNN_EXT.FREEZE", str(list(parts))]


@pytest.mark.parametrize(
    ("options", "keys", "message"),
    [
        ([], freeze("bakbone"), "no part 'bakbone'; did you mean 'backbone'"),
        ([], freeze("proposal_generator"), "leaves nothing to train"),  # in step 3
        (["--eval-only"], [], "use train_net.py --eval-only"),
        (["--resume"], [], "no checkpoint"),
    ],
    ids=["unknown part", "nothing to train", "eval-only", "nothing to resume"],
)
def test_mistakes_are_told_at_once_and_leave_nothing(
    flags, tmp_path, capsys, options, keys, message
):
    assert train(tmp_path / "out", flags, *options, keys=keys) == 2
    assert message in read_error(capsys)
    assert not (tmp_path / "out").exists()
