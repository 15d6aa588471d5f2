"""Finds mistakes in a command line before PyTorch is imported, which takes seconds.

These checks read only the command line and look for files. The package repeats them later, with all
the others.
"""

import argparse
import glob
import os
import sys
from collections.abc import Callable, Sequence

from command_line.light import import_light

__all__ = [
    "check_conversion",
    "check_prediction",
    "check_report",
    "check_server",
    "check_training",
    "stop_at_mistakes",
]

_FIX = "Give the file of a trained model"
# Options that name what must be there: its kind, and the end of the message.
_NAMED = {
    "train_json": ("json file", ""),
    "train_images": ("image folder", ""),
    "val_json": ("json file", ""),
    "val_images": ("image folder", ""),
    "json": ("json file", ""),
    "gt_json": ("json file", ""),
    "a": ("results", ""),
    "b": ("results", ""),
    "images": ("input", ""),
    "run": ("folder of a run", "Give the OUTPUT_DIR of a training"),
    "weights": ("weights", _FIX),
}


def stop_at_mistakes(
    args: argparse.Namespace,
    check: Callable[[argparse.Namespace], None] | None = None,
    *,
    folder: str | None = None,
) -> None:
    """End the command with exit code 2 and one sentence if its options name what is not there.

    A job of Slurm is not checked, since its machine may have other files. If `torchrun` has started
    several processes, only the first one checks, so that a mistake is printed once. From here on
    until `run_as_command`, Ctrl-C ends the program without a traceback.

    Args:
        args: the command line.
        check: a check of the command's own. It raises the `UserError` of `import_light("errors")`.
        folder: the folder that the command will write to, if it is given.
    """
    import_light("engine.arguments").let_ctrl_c_end()
    if int(os.environ.get("RANK", "0")) or getattr(args, "slurm", False):
        return
    try:
        for name, (what, fix) in _NAMED.items():
            given = getattr(args, name, None) or []
            for path in [given] if isinstance(given, str) else given:
                _require(path, what, fix)
        if model := getattr(args, "model", None):
            _require_model(model)
        _require_folder_name(folder, "--output")
        if check is not None:
            check(args)
    except (import_light("errors").UserError, OSError) as error:
        told = import_light("errors").explain_path_error(error)
        if told is None and isinstance(error, OSError):
            raise
        print(f"error: {told or error}", file=sys.stderr)
        sys.exit(2)


def check_training(args: argparse.Namespace) -> None:
    """Check the config, the weights and the folder of a training or an evaluation."""
    error = import_light("errors").UserError
    if args.config_file:
        import_light("config_files").find_config_file(args.config_file)
    elif not args.eval_only:  # detectron2's default config is a model without masks
        raise error(
            "training needs a config: --config-file NAME, such as mask_rcnn_lite0_FPN on a CPU or "
            "mask_rcnn_R50_FPN on a GPU; mask-rcnn-ext configs lists the names. To continue a run: "
            "--config-file RUN/config.yaml"
        )
    _check_split(args.split)
    given = dict(zip(args.opts[::2], args.opts[1::2], strict=False))
    _require_model(given.get("MODEL.WEIGHTS", ""))
    _require_folder_name(given.get("OUTPUT_DIR"), "OUTPUT_DIR")


def check_prediction(args: argparse.Namespace) -> None:
    """Check the model, the inputs, the numbers and the thresholds of a prediction."""
    options = import_light("prediction.arguments")
    inputs = [*args.inputs]
    _require_model(options.choose_model(argparse.Namespace(**{**vars(args), "inputs": inputs})))
    for path in inputs:
        if not path.isdecimal():  # the number of a camera
            _require(path, "input")
    options.check_numbers(args, videos=True)  # whether there is one is known later
    options.parse_thresholds(args.score_threshold)


def check_conversion(args: argparse.Namespace, formats: Sequence[str]) -> None:
    """Check the paths, the names of the formats and the split of a conversion."""
    _require(args.input, "input")
    for option, path, what in (
        ("OUTPUT", args.output, "a file or a folder"),
        ("--images", args.images, "a folder"),
    ):
        if path == "":
            import_light("errors").refuse_no_folder(option, what)
    for option, name in (("--from", args.source), ("--to", args.target)):
        if name is not None:
            import_light("errors").require_choice(option, name, formats)
    _check_split(args.split)


def check_report(args: argparse.Namespace) -> None:
    """Check that the folder is one of a run."""
    import_light("run_files").require_run_config(args.run)


def check_server(args: argparse.Namespace) -> None:
    """Check the number of the port."""
    import_light("errors").require_range("--port", args.port, 0, 65535)


def _check_split(split: float | None) -> None:
    if split is not None and not 0 < split < 1:
        raise import_light("errors").UserError(
            f"--split: expected a number between 0 and 1, such as 0.8, got {split:g}"
        )


def _require_model(path: str) -> None:
    """Raise if `path` has the name of a model file and there is none."""
    files = import_light("model_files")
    if files.is_checkpoint(path) or files.is_exported(path):
        _require(path, "weights", _FIX)


def _require(path: str, what: str, fix: str = "") -> None:
    """Raise if nothing is at `path`, unless it is an address or a pattern."""
    if "://" in path or glob.has_magic(path) or os.path.lexists(path):
        return
    errors = import_light("errors")
    folder, name = os.path.split(os.path.abspath(path))
    near = errors.nearest(name, os.listdir(folder)) if os.path.isdir(folder) else ""
    looked = "" if os.path.isabs(path) else f" (looked for {os.path.join(folder, name)})"
    end = near or "." * bool(fix)
    raise errors.UserError(f"{what} not found: {path}{looked}{end} {fix}".rstrip())


def _require_folder_name(folder: str | None, option: str) -> None:
    if folder == "":
        import_light("errors").refuse_no_folder(option)
    if folder and os.path.isfile(folder):
        raise import_light("errors").UserError(f"{option} {folder}: is a file, expected a folder")
