"""Evaluate the checkpoints of a run; `run_own_data.py` calls this script.

python projects/reproduction/score_checkpoints.py RUN_FOLDER ALL_VALIDATION_IMAGES.json
"""

import sys
from pathlib import Path

from reproduction.own_data.scoring import score_checkpoints

from mask_rcnn_ext import run_as_command

if __name__ == "__main__":
    folder, val_json = sys.argv[1:]
    sys.exit(run_as_command(lambda: score_checkpoints(Path(folder), val_json)))
