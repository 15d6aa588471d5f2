"""`make demo`: what makes the training and the report stale, in a small checkout."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import run_demo as tool
from detectron2.data.datasets import register_coco_instances
from support import REPO, write_coco

DATA = "demo_of_rectangles"
TRAINING, REPORT = "train_net.py", "make_report.py"


# A package that is read in a moment, in place of ours.
FILES = {
    "train_net.py": "import mask_rcnn_ext.engine.trainer\n",
    "tools/make_report.py": "import mask_rcnn_ext.report.run_page\n",
    "mask_rcnn_ext/engine/trainer.py": '"""The trainer."""\n\nmax_iter = 3\n',
    "mask_rcnn_ext/report/run_page.py": "import json\n",
    "mask_rcnn_ext/report/templates/report.html.j2": "<p>",
}


class Demo:
    """A checkout with two small images, and the demo on it without a training."""

    def __init__(self, root):
        self.root, self.folder, self.ran = root, root / "out", []
        shutil.copytree(REPO / "configs/shapes", root / "configs/shapes")
        for name, text in FILES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        json_file, _ = write_coco(root / "data", images=2)
        register_coco_instances(DATA, {}, str(json_file), str(root / "data"))
        config = root / tool.CONFIG
        text = config.read_text()
        for split in ("train", "val"):
            assert f"occluded_shapes_{split}" in text
            text = text.replace(f"occluded_shapes_{split}", DATA)
        config.write_text(text)

    def run_command(self, command):
        """Leave what the command would leave; the AP is the number of runs."""
        self.ran.append((Path(command[1]).name, "--resume" in command))
        if self.ran[-1][0] == REPORT:
            for name in ("report.html", "analysis.json", "predictions.png"):
                (self.folder / name).write_text("")
            return 0
        for name in ("config.yaml", "model_final.pth", "last_checkpoint"):
            (self.folder / name).write_text("")
        (self.folder / "results.json").write_text(json.dumps({"segm": {"AP": len(self.ran)}}))
        return 0

    def run(self):
        """Run the demo; return the scripts that it ran, and whether each was resumed."""
        before = len(self.ran)
        tool.run_demo(self.folder, self.root)
        return self.ran[before:]

    def states(self):
        return [
            step(self.folder, self.root).state() for step in (tool.DemoTraining, tool.DemoReport)
        ]

    @contextlib.contextmanager
    def replaced(self, name, old, new):
        path = self.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        try:
            yield
        finally:
            path.write_text(text)


@pytest.fixture(scope="module")
def demo(tmp_path_factory, forget_data_sets_of_file):
    """A demo that is done; tests leave it so."""
    made = Demo(tmp_path_factory.mktemp("checkout"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "run_command", made.run_command)
        assert made.run() == [(TRAINING, False), (REPORT, False)]
        yield made


@pytest.fixture
def demo_to_change(demo, tmp_path):
    """The same; its folder is put back after the test."""
    shutil.copytree(demo.folder, tmp_path / "kept")
    yield demo
    shutil.rmtree(demo.folder)
    shutil.move(tmp_path / "kept", demo.folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "states"),
    [
        ("mask_rcnn_ext/engine/trainer.py", '"""The trainer', '"""Our trainer', ["done", "done"]),
        ("mask_rcnn_ext/engine/trainer.py", "max_iter", "last_iter", ["stale", "done"]),
        ("mask_rcnn_ext/report/run_page.py", "import", "import os\nimport", ["done", "stale"]),
        ("mask_rcnn_ext/report/templates/report.html.j2", "<", " <", ["done", "stale"]),
        (tool.CONFIG, "MAX_ITER: ", "MAX_ITER: 1", ["stale", "done"]),
        (tool.CONFIG, "# The demo", "# Our demo", ["done", "done"]),
        ("data/annotations.json", '"id": 1', '"id": 9', ["stale", "done"]),
        ("out/results.json", "AP", "AP50", ["done", "stale"]),
    ],
    ids=[
        *("docstring", "training code", "report code", "template", "config", "comment in a config"),
        *("data", "results"),
    ],
)
def test_what_makes_the_demo_stale(demo, name, old, new, states):
    with demo.replaced(name, old, new):
        assert demo.states() == states


def test_the_training_depends_on_model_and_data_and_on_no_page():
    found = {str(path.relative_to(REPO)) for path in tool.find_training_files(REPO)}
    assert {"train_net.py", "mask_rcnn_ext/modeling/roi_heads/mask_heads.py"} <= found
    assert "mask_rcnn_ext/data/shape_drawing.py" in found
    rooms = {Path(name).parts[1] for name in found if name != "train_net.py"}
    assert not rooms & {"report", "prediction", "recipes", "model_zoo.py"}
    assert rooms >= {"engine", "config.py", "layers", "evaluation"}


def test_done_then_interrupted_then_another_config(demo_to_change, capsys):
    demo = demo_to_change
    assert demo.run() == []
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{demo.folder} is up to date; `make clean-demo demo` runs it again",
        "mask AP 1",
        f"report  {demo.folder}/report.html",
    ]
    (demo.folder / "results.json").unlink()
    (demo.folder / "metrics.json").write_text("the first half")
    assert demo.run() == [(TRAINING, True), (REPORT, False)]
    assert (demo.folder / "metrics.json").exists()
    assert "is up to date" not in capsys.readouterr().out
    with demo.replaced(tool.CONFIG, "MAX_ITER: ", "MAX_ITER: 1"):
        assert demo.run() == [(TRAINING, False), (REPORT, False)]
        assert not (demo.folder / "metrics.json").exists()
    (demo.folder / "made_from.json").unlink()  # the training of a user
    kept = sorted(demo.folder.iterdir())
    with pytest.raises(tool.UserError, match="holds a training that this command did not start"):
        demo.run()
    assert sorted(demo.folder.iterdir()) == kept


def test_a_folder_of_something_else_and_a_failed_training(demo, monkeypatch, tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(tool.UserError, match="is not a training run"):
        tool.run_demo(tmp_path, demo.root)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(tool.UserError, match=r"folder .*thesis.txt cannot be written to"):
        tool.run_demo(tmp_path / "thesis.txt", demo.root)
    assert (tmp_path / "thesis.txt").read_text() == "dear"
    monkeypatch.setattr(tool, "run_command", lambda command: 3)
    with pytest.raises(tool.UserError, match=r"the training of the demo failed \(exit code 3\)"):
        tool.run_demo(tmp_path / "new", demo.root)
