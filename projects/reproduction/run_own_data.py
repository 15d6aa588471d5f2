"""Train on own data as a user would, on a CPU in minutes, and compare starts and settings.

python projects/reproduction/run_own_data.py --dsb2018 DIR --coco DIR

The data are nuclei (dsb2018, 5 minutes) and the persons of COCO (coco_free158, 15 minutes). The
minutes are for two CPU cores without other work. For both data sets, runs start from scratch and
from ImageNet weights, with settings made by hand and with `--auto`. Every run uses
configs/mask_rcnn_lite0_FPN.yaml. "From scratch" is the same network without its weights. The
hand-made settings for nuclei are small anchors and more detections. A third data set is what a user
with one kind of images has: sixty of the fluorescence images of the nuclei (15 minutes), with
ImageNet weights and `--auto`, tested on the fluorescence images for validation.

The iterations are fixed (`DATA` in reproduction/own_data/runs.py), so the load of the machine does
not change the results. `--time` measures how many iterations fit into the minutes on this machine.
The demo's smaller network, from scratch, does 550 iterations on the nuclei in these minutes:
results/dsb2018.json.

All trainings take hours. You can stop the script at any time: finished trainings are in the results
file. They are not repeated as long as their config and their annotations stay the same.

Six checkpoints of each run are evaluated. One half of the validation images selects the best one,
and decides when a run would stop early. The other half scores the selected checkpoint. A run that
stops early (with a patience of 2) equals the whole run up to this point, so no run has to stop. The
run also averages its weights (`MASK_RCNN_EXT.EMA`), which does not change the training. The average
is evaluated at the end.

Predictions, written before any training. A range is refuted by a 95 % interval outside it: over the
seeds, or over the runs of a data set where a run is compared with itself.
  1. ImageNet weights gain 10 mask AP or more on persons, since 45 photos cannot teach what a person
     looks like; on nuclei they gain 0 to 5, since the task is easy and has 23,070 objects.
  2. `--auto` is within 2 mask AP of the hand-made settings, on both. It chooses nearly the same:
     for nuclei the same anchors, but more detections and a shorter warm-up; for persons, only a
     shorter warm-up.
  3. The best checkpoint is within 1 mask AP of the last one: the learning rate falls to 0, so that
     the last one is nearly always the best. The difference on the images that selected it cannot
     be negative; it shows what one would believe without a scoring half.
  4. An early end changes mask AP by less than 1, and saves less than a tenth of the time.
  5. Averaged weights are within 1 mask AP of the last ones, for the reason of 3.
  6. Five minutes give a mask AP50 of 60 or more on nuclei. Fifteen minutes do not give a mask AP of
     50 on persons: they are small or cut off in many of the photos.
  7. Written after the other runs, and before the first one on the sixty images: they give a mask AP
     of 50 or more in 15 minutes. After 5 minutes on all 532 images, one of the models had 47 on the
     fluorescence images for validation (not in the results file). The longer training gains more
     than the fewer images cost.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.command_line import make_parser, prepare_process
from reproduction.own_data.picture import draw_curves
from reproduction.own_data.results import find_recorded, write_own_data_results
from reproduction.own_data.runs import DATA, OwnDataRun, plan_own_data
from reproduction.own_data.timing import describe_timings, time_variants
from reproduction.training_runs import TrainingProgress, train_all

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import atomic_open


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, folder="own_data", name="own_data", seeds=3)
    layout = "a folder with annotations_train.json, annotations_val.json and images/"
    for option, what in (("--dsb2018", "the nuclei"), ("--coco", "images of COCO with persons")):
        parser.add_argument(option, required=True, metavar="DIR", help=f"{what}: {layout}")
    help_time = "only measure how many iterations fit into the minutes, for the results file"
    help_data = "train only on this data set; two such commands can run at the same time"
    parser.add_argument("--data", choices=tuple(DATA), help=help_data)
    parser.add_argument("--time", action="store_true", help=help_time)
    return parser.parse_args(argv)


def run_own_data(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan_own_data(args.output, {"dsb2018": args.dsb2018, "coco": args.coco}, args.seeds)
    if args.time:
        timings = time_variants(runs)
        print(describe_timings(timings))
        write_own_data_results(args.results, runs, [timing.describe() for timing in timings])
        return
    recorded = find_recorded(args.results, runs)
    wanted = (args.data,) if args.data else tuple(DATA)
    left = [run for run in runs if run not in recorded and run.data in wanted]
    progress = TrainingProgress(left)
    print(f"{len(recorded)} of {len(runs)} runs are in {args.results}")
    if args.list:
        print(progress.table())
        return
    if not args.only_report:
        print(progress.summary())
        train_all(left, progress, lambda: _write(args, runs))
    _write(args, runs)
    print(args.results, args.picture, sep="\n")


def _write(args: argparse.Namespace, runs: Sequence[OwnDataRun]) -> None:
    content = write_own_data_results(args.results, runs)
    with atomic_open(Path(args.picture)) as file:
        file.write(draw_curves(content))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_own_data(parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
