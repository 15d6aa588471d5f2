"""The command `mask-rcnn-ext`: the scripts of this folder, and training, under one name.

    mask-rcnn-ext check --train-json train.json --train-images images --output check
    mask-rcnn-ext predict output/model_final.pth photos --output predictions

A wheel holds this folder as the package `mask_rcnn_ext_tools`, next to `mask_rcnn_ext`: whatever is
inside `mask_rcnn_ext` imports PyTorch first, which takes seconds, also for `--help`.
"""

import difflib
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent
TRAIN = "Train a model from a config."
EVALUATE = "Evaluate a model on a data set."
SCRIPTS = {
    "predict": "predict.py",
    "check": "check_dataset.py",
    "report": "make_report.py",
    "export": "export_model.py",
    "compare": "compare.py",
    "serve": "serve.py",
    "inspect": "inspect_model.py",
    "preview": "preview_dataset.py",
    "convert": "convert_dataset.py",
    "proposals": "compute_proposals.py",
    "doctor": "environment/doctor.py",
    "configs": "list_configs.py",
    "setup": "environment/install_detectron2.py",
}
INSTALLED_BY_SETUP = ("detectron2", "cv2")  # not by pip, together with the wheel
EXAMPLES = """
Examples:

  mask-rcnn-ext train --config-file mask_rcnn_lite0_FPN --train-json train.json \\
      --train-images images --split 0.8 OUTPUT_DIR output/mine SOLVER.MAX_ITER 500

  mask-rcnn-ext evaluate --val-json val.json --val-images images \\
      MODEL.WEIGHTS output/mine/model_final.pth
"""


def find_commands() -> dict[str, str]:
    """Return the names and purposes of the commands, from the scripts that are there."""
    found = {"train": TRAIN, "evaluate": EVALUATE}
    for name, script in SCRIPTS.items():
        if (path := FOLDER / script).is_file():
            found[name] = path.read_text(encoding="utf-8").partition("\n")[0].strip('"')
    return found


def make_help() -> str:
    """Return the text of `mask-rcnn-ext --help`."""
    listed = "\n".join(f"  {name:10}{text}" for name, text in find_commands().items())
    return (
        "usage: mask-rcnn-ext COMMAND ...\n\n"
        "Mask R-CNN on your own data, from the check of the data to predictions.\n\n"
        f"{listed}\n\nmask-rcnn-ext COMMAND --help shows the options of a command."
    )


def run_script(path: Path) -> None:
    """Run a script as `python` does; `sys.argv` stays."""
    sys.path.insert(0, str(path.parent))
    main = ModuleType("__main__")
    main.__file__ = str(path)  # processes that the script starts look for it
    sys.modules["__main__"] = main
    SourceFileLoader("__main__", str(path)).exec_module(main)


def train(arguments: Sequence[str]) -> int:
    """Do what train_net.py does with these arguments; return the exit code."""
    sys.path.append(str(FOLDER))
    from command_line.early import check_training, stop_at_mistakes
    from command_line.light import import_light

    args = import_light("engine.arguments").argument_parser(EXAMPLES).parse_args(arguments)
    stop_at_mistakes(args, check_training)

    from mask_rcnn_ext import launch, run_as_command, run_job

    return run_as_command(lambda: launch(run_job, args))


def main() -> int:
    """Run the command that `sys.argv` names; return the exit code."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(make_help())
        return 0
    if name == "--version":  # read without importing the package
        found = runpy.run_path(str(FOLDER.parent / "mask_rcnn_ext/version.py"))
        print(f"mask-rcnn-ext {found['__version__']}")
        return 0
    known = find_commands()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "mask-rcnn-ext --help lists them"
        said = f"unknown command {name!r}" if name else "no command given"
        print(f"error: {said}; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"mask-rcnn-ext {name}", *arguments]
    try:
        if name == "train":
            return train(arguments)
        if name == "evaluate":
            return train(["--eval-only", *arguments])
        run_script(FOLDER / SCRIPTS[name])
    except ModuleNotFoundError as error:
        if error.name not in INSTALLED_BY_SETUP:
            raise
        print(f"error: {error.name} is not installed: run mask-rcnn-ext setup", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
