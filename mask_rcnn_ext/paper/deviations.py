"""What each config does otherwise than the paper, and chooses where the paper is silent.

The headers of the yaml files say the same; a test compares them. For FCIS it is the released code
that the configs follow, and differ from.
"""

__all__ = ["COMMON", "FCIS", "OWN", "deviations_of"]

_JOINT = (
    "The RPN is trained jointly with the rest; the paper trains it first and shares no features, "
    "which tools/train_two_stage.py does."
)
_SIGMOID = "Objectness is a sigmoid per anchor, not a two-class softmax."
_PASTE = "Masks are pasted by grid sampling into the exact box, not resized to whole pixels."
# Of every config, in the header of Base-Paper.yaml.
COMMON = (
    _JOINT,
    _SIGMOID,
    _PASTE,
    "Crowd regions are left out of training.",
)
# Of every FCIS config, in the header of Base-FCIS.yaml.
FCIS = (
    "The factors of batch normalisation are frozen; the released code trains those of res3 to "
    "res5.",
    _SIGMOID,
    "The stem's max pooling pads by one pixel; the released code rounds the size up instead.",
    "Anchors' sides are not rounded, and boxes are continuous: none is one pixel wider for being "
    "counted in whole pixels.",
    "Boxes under 2 pixels are dropped after the best 6000 are taken, not before, and proposals are "
    "not filled up to 300 with copies.",
    "The box branch has no outputs for the background, which the released code never trains: 4 per "
    "bin, as in the paper, not 8.",
    "An object's best anchor is found among all anchors, and left out when it crosses the border; "
    "the released code finds it among those that do not.",
    "Objects' polygons are drawn at the size of the network's input; the released code draws them "
    "at the image's and resizes bilinearly. Objects' boxes are not rounded to pixels.",
    "Mask targets are cropped at the RoI, not also at the object's rounded box.",
    "Averaged votes are cut at 0.4 where they are, in the image, not resized to 21 x 21 first; of "
    "detections that score as high as the hundredth no more than 100 are kept in all.",
    "Weight decay is 5e-4 beside the rate of the mean gradient; beside that of the sum, as in the "
    "released code, it acts an eighth as strongly.",
    "240k iterations with the drop at 160k, and flips at random; the released code has 8 epochs of "
    "each image and its mirror image, about 234.5k iterations, with the drop at about 156k.",
    "ImageNet weights and pixel means are detectron2's, MSRA's in Caffe; the released code has a "
    "conversion for MXNet, with means half a grey level lower.",
)

_C4 = (
    "The number of proposals in training is not in the paper; here 2000 per image, as Detectron's."
)
_C5 = (
    "RoIs and proposals for C5 are not in the paper; here FPN's, since the head is: 512 RoIs and "
    "2000 proposals per image in training, 1000 proposals in testing."
)
_WARP = (
    "The paper says of RoIWarp that it quantises the RoI; the rest is MNC's arithmetic, one "
    "bilinear sample at each cell's top-left corner and 2 x 2 of them per bin."
)
_MLP = (
    "The size of the RoI features before the MLP is not in the paper; here 14 x 14, as the FCN's."
)
_SAME_DATA = (
    "Images with persons but without labelled keypoints are trained on too; the paper's rows share "
    "the images with keypoints."
)
_CITY = (
    "Not in the paper: NMS in testing, here 0.3, its default; longer side, here 2048, the images'."
)
_IN5K = "ImageNet-5k pre-training, which the paper adds before this row, is missing."
_X152 = (
    "The width of the ResNeXt-152 is not in the paper; here 32 x 8d, that of the only public "
    "weights, which are pre-trained on ImageNet-5k as the paper's are."
)
_NONLOCAL = (
    "Number and place of the non-local blocks are not in the paper; here one, before the last "
    "block of res4, as in the non-local paper's COCO experiments.",
    "The non-local block has no batch normalisation; its last convolution starts at zero.",
)
_TTA = (
    "How predictions at several scales are combined is not in the paper; here boxes by NMS, masks "
    "and keypoint heatmaps by averaging, as in Detectron."
)
_64X4D = "The width of this ResNeXt-101 is not in the paper; here 64 x 4d, as in Table 2a."

# By config, in the header of its yaml.
OWN: dict[str, tuple[str, ...]] = {
    "fcis/fcis_plusplusplus_R101_C5_dilated": (
        "The limit of the longer side is not in the paper; here 2333, which is to 1400 what 1000 "
        "is to 600, so images up to 5 : 3 have each size whole.",
        "How the sizes' results are combined is known from summaries of the paper only; "
        "FCISWithTTA in mask_rcnn_ext/modeling/fcis/tta.py says what is taken from there.",
        "The iterations of training at several scales are not in the paper; here the same.",
    ),
    "mask_rcnn_R50_C4": (_C4,),
    "mask_rcnn_R101_C4": (_C4,),
    "ablations/mask_rcnn_R50_C4_softmax": (
        _C4,
        "The paper does not say which channels compete or how a mask is read; here the classes and "
        "the background, and the predicted class's probability from 0.5 on.",
    ),
    "ablations/mask_rcnn_R50_C4_RoIPool": (_C4,),
    "ablations/mask_rcnn_R50_C4_RoIWarpMax": (_C4, _WARP),
    "ablations/mask_rcnn_R50_C4_RoIWarpAve": (_C4, _WARP),
    "ablations/mask_rcnn_R50_C4_RoIAlignMax": (_C4,),
    "ablations/mask_rcnn_R50_C4_agnostic": (_C4,),
    "ablations/mask_rcnn_R50_C5": (_C5,),
    "ablations/mask_rcnn_R50_C5_RoIPool": (_C5,),
    "ablations/mask_rcnn_R50_FPN_MLP2": (_MLP,),
    "ablations/mask_rcnn_R50_FPN_MLP3": (_MLP,),
    "ablations/mask_rcnn_R50_FPN_RoIPool": (
        "The sentence does not name the backbone; here ResNet-50.",
    ),
    "keypoints/faster_rcnn_R50_FPN_person": (_SAME_DATA,),
    "keypoints/mask_rcnn_R50_FPN_person": (_SAME_DATA,),
    "keypoints/keypoint_rcnn_X101_FPN": (_64X4D,),
    "keypoints/keypoint_rcnn_X101_FPN_TTA": (
        _64X4D,
        "Data distillation, which the paper adds before this row, is missing.",
        _TTA,
    ),
    "cityscapes/mask_rcnn_R50_FPN_fine": (_CITY,),
    "cityscapes/mask_rcnn_R50_FPN_fine_coco": (
        _CITY,
        "The learning rate that fine-tuning starts from is not in the paper; here 0.01.",
    ),
    "enhanced/mask_rcnn_X101_FPN_augm": (_IN5K,),
    "enhanced/mask_rcnn_X152_FPN": (_X152,),
    "enhanced/mask_rcnn_X152_FPN_nonlocal": (_X152, *_NONLOCAL),
    "enhanced/mask_rcnn_X152_FPN_nonlocal_TTA": (_X152, *_NONLOCAL, _TTA),
}

# Table 8 from "+ e2e training" on: the paper, too, trains jointly.
_JOINT_IN_THE_PAPER = tuple(
    f"enhanced/mask_rcnn_{name}"
    for name in (
        "X101_FPN_e2e",
        "X101_FPN_augm",
        "X152_FPN",
        "X152_FPN_nonlocal",
        "X152_FPN_nonlocal_TTA",
    )
)


def deviations_of(config: str) -> tuple[str, ...]:
    """Return the common deviations that concern this config, then its own.

    Args:
        config: relative to `configs/`, without `.yaml`.
    """
    own = OWN.get(config, ())
    if config.split("/")[-1].startswith("fcis_"):
        return (*FCIS, *own)
    absent = set()
    if config in _JOINT_IN_THE_PAPER:
        absent.add(_JOINT)
    if "mask_rcnn" not in config:
        absent.add(_PASTE)
    return (*(text for text in COMMON if text not in absent), *own)
