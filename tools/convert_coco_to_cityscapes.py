"""Convert a Mask R-CNN for COCO to the classes of Cityscapes (Appendix A, "fine + COCO").

    python tools/convert_coco_to_cityscapes.py --weights model_final.pkl --output converted.pth

The weights may come from detectron2's zoo or a run of mask_rcnn_ext; give a file or a URL. The
output layers of the 7 classes in both data sets are copied; "rider" is drawn at random, with the
seed `--seed`. Train with `MODEL.WEIGHTS converted.pth` and
configs/cityscapes/mask_rcnn_R50_FPN_fine_coco.yaml.
"""

import argparse
import sys
from collections.abc import Sequence

from command_line.light import import_light


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: `sys.argv`) and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a COCO model, .pkl or .pth"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the .pth to write")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random weights (default: 0)"
    )
    args = parser.parse_args(argv)  # --help ends here, before the imports below, which take seconds
    import_light("engine.arguments").let_ctrl_c_end()

    from detectron2.data import MetadataCatalog

    from mask_rcnn_ext.checkpoint.convert_classes import convert_checkpoint
    from mask_rcnn_ext.engine.launch import run_as_command

    def convert() -> None:
        coco = MetadataCatalog.get("coco_2017_train").thing_classes  # whatever the file says
        drawn = convert_checkpoint(args.weights, args.output, old_classes=coco, seed=args.seed)
        print(f"{args.output}: drawn at random: {', '.join(drawn)}; the other classes are COCO's")

    return run_as_command(convert)


if __name__ == "__main__":
    sys.exit(main())
