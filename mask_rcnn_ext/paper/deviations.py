"""The differences between each config and the paper, and choices that the paper does not describe.

The headers of the yaml files have the same sentences; a test compares them. The FCIS configs follow
the released code, so their deviations are differences from this code.
"""

__all__ = ["COMMON", "FCIS", "OWN", "get_deviations"]

_JOINT = (
    "The RPN is trained jointly with the rest of the model. The paper trains it first and "
    "shares no features; tools/train_two_stage.py does the same."
)
_SIGMOID = "Objectness is a sigmoid per anchor, not a two-class softmax."
_PASTE = "Masks are pasted by grid sampling into the exact box, not resized to whole pixels."
_BOXES = (
    "Boxes are continuous, the sides of anchors are exact, and anchors are centred on the corners "
    "of cells, as in detectron2. Detectron, the authors' code, counts whole pixels, which makes a "
    "box one pixel wider, rounds the sides, and centres anchors in the cells."
)
_MATCHED = (
    "The mask target of a RoI comes from the object that the RoI was matched to. Detectron takes "
    "the object whose mask has the bounding box with the largest IoU, whatever its class."
)
# Deviations of every config, also in the header of Base-Paper.yaml.
COMMON = (
    _JOINT,
    _SIGMOID,
    _PASTE,
    "Crowd regions are left out of training.",
    _BOXES,
    _MATCHED,
)
# Deviations of every FCIS config, also in the header of Base-FCIS.yaml.
FCIS = (
    "The factors of batch normalisation are frozen; the released code trains them in res3 to res5.",
    _SIGMOID,
    "The stem's max pooling pads by one pixel; the released code rounds the size up instead.",
    "Boxes and the sides of anchors are continuous; the released code counts whole pixels, "
    "which makes a box one pixel wider.",
    "Boxes under 2 pixels are dropped after the best 6000 are selected, not before, and there "
    "are fewer than 300 proposals where the released code adds copies.",
    "The box branch has 4 outputs per bin, as in the paper; the released code has 8, of which "
    "the 4 for the background are never trained.",
    "An object's best anchor is found among all anchors and is left out if it crosses the "
    "border; the released code searches only anchors inside the image.",
    "Polygons are drawn at the size of the network's input; the released code draws them at "
    "the size of the image and resizes the masks bilinearly. Boxes of objects are not rounded "
    "to pixels.",
    "Mask targets are cropped at the RoI only, not also at the object's rounded box.",
    "Averaged votes are cut at 0.4 in the image, without resizing them to 21 x 21 first. At "
    "most 100 detections are kept, also if others have the same score as the hundredth.",
    "Weight decay is 5e-4 with a learning rate for the mean gradient; the released code has a "
    "rate for the sum over 8 images, where the same decay is an eighth as strong.",
    "Training takes 240k iterations with the drop at 160k, and images are flipped at random; "
    "the released code trains 8 epochs on each image and its mirror image, about 234.5k "
    "iterations, with the drop at about 156k.",
    "ImageNet weights and pixel means are detectron2's, from MSRA's Caffe model; the released "
    "code has a conversion for MXNet, with means half a grey level lower.",
)

_C4 = (
    "The number of proposals in training is not in the paper; here it is 2000 per image, as "
    "in Detectron."
)
_C5 = (
    "RoIs and proposals for C5 are not in the paper; here they are the same as for FPN, which "
    "has the same head: 512 RoIs and 2000 proposals per image in training, 1000 proposals in "
    "testing."
)
_WARP = (
    "The paper says only that RoIWarp quantises the RoI; the rest follows MNC's code from commit "
    "37e896e of caffe-mnc (2016-10-22) on: one bilinear sample at each cell's top-left corner, and "
    "2 x 2 samples per bin. MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIWarpV1Max and ROIWarpV1Ave have the "
    "form of its first release, 17b56bd, with samples at both ends of each cell."
)
_MLP = (
    "The size of the RoI features before the MLP is not in the paper; here it is 14 x 14, as "
    "for the FCN."
)
_SAME_DATA = (
    "Training also uses images with persons but without labelled keypoints; the rows of the "
    "paper all use the images with keypoints."
)
_CITY = (
    "NMS in testing is not in the paper; here it is 0.3, the paper's default. The longer side "
    "is not in the paper either; here it is 2048, the width of the images."
)
_IN5K = "ImageNet-5k pre-training, which the paper adds before this row, is missing."
_X152 = (
    "The width of the ResNeXt-152 is not in the paper; here it is 32 x 8d, the width of the "
    "only public weights, which are pre-trained on ImageNet-5k as in the paper."
)
_NONLOCAL = (
    "Number and place of the non-local blocks are not in the paper; here there is one, before "
    "the last block of res4, as in the COCO experiments of the non-local paper.",
    "The non-local block has no batch normalisation; its last convolution starts at zero.",
)
_TTA = (
    "The paper does not say how predictions at several scales are combined, nor how long the "
    "longer side may be; here it is at most 2000, as in Detectron's configs with augmentation."
)
_TTA_MASK = (
    "Boxes of all scales are merged by NMS and masks are averaged, as in Detectron's ResNeXt-152. "
    "That config then replaces each box by the average of all boxes with an IoU of 0.9 (box "
    "voting), with and without augmentation; here there is no voting."
)
_TTA_KEYPOINT = (
    "Boxes of all scales are merged by NMS and all scales count for the averaged heatmaps. "
    "Detectron's example averages boxes and scores of the same proposals and leaves scales out "
    "that do not suit an object's size."
)
_64X4D = "The width of this ResNeXt-101 is not in the paper; here it is 64 x 4d, as in Table 2a."
_X101_KEYPOINT = (
    "The batch of this row is not in the paper; here it is 16 images at a learning rate of 0.02, "
    "as in Detectron's config of this schedule. For masks (section 3.1) the paper trains ResNeXt "
    "on 8 images at 0.01."
)

# Config -> its own deviations, also in the header of its yaml.
OWN: dict[str, tuple[str, ...]] = {
    "fcis/fcis_plusplusplus_R101_C5_dilated": (
        "The limit of the longer side is not in the paper; here it is 2333, the same ratio to "
        "1400 as 1000 to 600, so no size of an image up to 5 : 3 is reduced.",
        "How the results of the sizes are combined is known only from summaries of the paper; "
        "mask_rcnn_ext/modeling/fcis/tta.py says which rules come from them.",
        "The iterations of training at several scales are not in the paper; here they are the "
        "same as for one scale.",
    ),
    "mask_rcnn_R50_C4": (_C4,),
    "mask_rcnn_R101_C4": (_C4,),
    "ablations/mask_rcnn_R50_C4_softmax": (
        _C4,
        "The paper does not say which channels compete or how a mask is predicted; here the "
        "classes and the background compete, and a mask is where the probability of the predicted "
        "class is at least 0.5. With MODEL.ROI_MASK_HEAD.SOFTMAX_ARGMAX True it is where this "
        "probability is the largest.",
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
    "ablations/faster_rcnn_R101_FPN_RoIPool": (
        "NMS in testing is not in FPN's paper; here it is 0.3, as in the other rows of the table.",
    ),
    "ablations/mask_rcnn_R50_FPN_RoIPool": (
        "The sentence does not name the backbone; here it is ResNet-50.",
    ),
    "keypoints/faster_rcnn_R50_FPN_person": (_SAME_DATA,),
    "keypoints/mask_rcnn_R50_FPN_person": (_SAME_DATA,),
    "keypoints/keypoint_rcnn_X101_FPN": (_64X4D, _X101_KEYPOINT),
    "keypoints/keypoint_rcnn_X101_FPN_TTA": (
        _64X4D,
        _X101_KEYPOINT,
        "Data distillation, which the paper adds before this row, is missing.",
        _TTA,
        _TTA_KEYPOINT,
    ),
    "cityscapes/mask_rcnn_R50_FPN_fine": (_CITY,),
    "cityscapes/mask_rcnn_R50_FPN_fine_coco": (
        _CITY,
        "The first learning rate of fine-tuning is not in the paper; here it is 0.01.",
    ),
    "enhanced/mask_rcnn_X101_FPN_augm": (_IN5K,),
    "enhanced/mask_rcnn_X152_FPN": (_X152,),
    "enhanced/mask_rcnn_X152_FPN_nonlocal": (_X152, *_NONLOCAL),
    "enhanced/mask_rcnn_X152_FPN_nonlocal_TTA": (_X152, *_NONLOCAL, _TTA, _TTA_MASK),
}

# In Table 8, from "+ e2e training" on, the paper also trains jointly.
_JOINT_IN_THE_PAPER = (
    "enhanced/mask_rcnn_X101_FPN_e2e",
    "enhanced/mask_rcnn_X101_FPN_augm",
    "enhanced/mask_rcnn_X152_FPN",
    "enhanced/mask_rcnn_X152_FPN_nonlocal",
    "enhanced/mask_rcnn_X152_FPN_nonlocal_TTA",
)


def get_deviations(config: str) -> tuple[str, ...]:
    """Return the common deviations that concern this config, then the deviations of its own.

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
        absent |= {_PASTE, _MATCHED}
    return (*(text for text in COMMON if text not in absent), *own)
