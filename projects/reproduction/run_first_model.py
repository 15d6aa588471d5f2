"""Run the commands of docs/first_model.md: from sixty photos of one class to a video with masks.

python projects/reproduction/run_first_model.py --coco DIR

It makes a folder with photos, a json of one class, new photos and a video. Then it runs the
commands in this folder, each in a new process. This takes about 12 minutes on two CPU cores without
other work, of which the training takes 11.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.command_line import prepare_process
from reproduction.first_model.facts import collect_first_model_facts
from reproduction.first_model.markdown import FIRST_MODEL, PICTURE, name_video_picture
from reproduction.first_model.pictures import draw_frames, draw_photos
from reproduction.first_model.stages import CONFIG, FolderStep, StageStep, plan_stages

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.report.json_records import to_json
from mask_rcnn_ext.steps import run_step


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="A finished command is skipped, unless its inputs have changed.",
    )
    layout = "a folder with annotations_train.json, annotations_val.json and images/"
    for option, metavar, default, text in (
        ("--output", "DIR", "output/first_model", "folder for the user's folder and the records"),
        ("--results", "FILE", FIRST_MODEL, "json to write"),
        (
            "--picture",
            "FILE",
            PICTURE,
            "picture to write; the picture of the video is written next to it",
        ),
        ("--config-file", "CFG", CONFIG, "for a trial: another config"),
    ):
        parser.add_argument(
            option, default=default, metavar=metavar, help=f"{text} (default: {default})"
        )
    parser.add_argument("--coco", required=True, metavar="DIR", help=f"photos of COCO: {layout}")
    parser.add_argument(
        "--list", action="store_true", help="print which commands are done, and which are left"
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="for a trial: keys of the training, such as SOLVER.MAX_ITER 20; last on the line",
    )
    return parser.parse_args(argv)


def run_first_model(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    root = Path(args.output)
    folder = FolderStep(args.coco, root)
    steps = [StageStep(stage, root) for stage in plan_stages(args.config_file, args.opts)]
    if args.list:
        for step in (folder, *steps):
            print(f"{step.state():11}  {step.title}")
        return
    for step in (folder, *steps):
        run_step(step)
    results = collect_first_model_facts(root, folder, steps)
    draw_photos(root / "home", results.shown, args.picture)
    draw_frames(root / "home", name_video_picture(args.picture))
    write_json(args.results, to_json(results))
    minutes = sum(step.seconds() for step in steps) / 60
    print(f"the commands took {minutes:.1f} minutes")
    print(args.results, args.picture, name_video_picture(args.picture), sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_first_model(parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
