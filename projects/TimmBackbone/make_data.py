#!/usr/bin/env python
"""Write the data set `occluded_shapes` with 1 or 6 channels: `make_data.py 6`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mask_rcnn_ext import run_as_command

# isort: split
from timm_channels import write_shapes

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("channels", type=int, help="1 or 6")
    arguments = parser.parse_args()
    sys.exit(run_as_command(lambda: write_shapes(arguments.channels)))
