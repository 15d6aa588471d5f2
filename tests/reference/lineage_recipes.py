"""The recipe of each config in configs/lineage, key by key, for `test_recipes.py`.

[R]: R-CNN (arXiv:1311.2524), [F]: Fast R-CNN (arXiv:1504.08083), [FR]: Faster R-CNN
(arXiv:1506.01497), [RES]: ResNet (arXiv:1512.03385, appendix A), [FPN]: arXiv:1612.03144, sections
5.1 and 5.2; "code": the authors' released code, where the paper says nothing; "choice": neither
does. A recipe has all keys in which the config differs from the defaults.
"""

from .paper_recipes import iterations

VOC = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 20,
    "DATASETS.TRAIN": ["voc_2007_trainval"],
    "DATASETS.TEST": ["voc_2007_test"],
}
COCO_2014 = {  # 80k images, and the 40k of val
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "DATASETS.TRAIN": ["coco_2014_train"],
    "DATASETS.TEST": ["coco_2014_val"],
}
COCO_2017 = {  # trainval35k and minival
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
}
BOXES = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": False,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,  # [R], [F]
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,  # code
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,  # [F]; [R]: code
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,  # code of [F]
    "TEST.DETECTIONS_PER_IMAGE": 100,  # code of [F]
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],  # code of [F]
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,  # [F]
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,  # [F]
    "INPUT.RANDOM_FLIP": "horizontal",  # [R], [F]
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,  # [F], [FR], [FPN]
}
TORCHVISION = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
}
CLASSIFIER = {
    "MODEL.ROI_BOX_HEAD.NAME": "MaskRCNNExtClassifierBoxHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,  # fc6, fc7
    "MODEL.ROI_BOX_HEAD.FC_DIM": 4096,
    "MODEL.ROI_BOX_HEAD.DROPOUT": 0.5,  # code
}
SCALE_600 = {  # [F], [FR], [RES]
    "INPUT.MIN_SIZE_TRAIN": [600], "INPUT.MAX_SIZE_TRAIN": 1000,
    "INPUT.MIN_SIZE_TEST": 600, "INPUT.MAX_SIZE_TEST": 1000,
}  # fmt: skip
SGD = {
    "SOLVER.BASE_LR": 0.001,  # [R], [F], [FR], [RES]
    "SOLVER.WEIGHT_DECAY": 0.0005,  # [F]; [R]: code; [RES]: choice
    "SOLVER.BIAS_LR_FACTOR": 2.0,  # [F]; [R]: code; [RES]: choice
    "SOLVER.WARMUP_ITERS": 0,
}
STORED = {"MODEL.LOAD_PROPOSALS": True, "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}
LIMITED = {"MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.1, 0.5], "MODEL.ROI_HEADS.IOU_LABELS": [-1, 0, 1]}
ALL_BELOW = {"MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5], "MODEL.ROI_HEADS.IOU_LABELS": [0, 1]}
VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


def batch(images, rois):
    return {"SOLVER.IMS_PER_BATCH": images, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": rois}


def files(folder, *names):
    paths = [[f"output/proposals/{folder}/{name}.pkl"] for name in names]
    return {
        f"DATASETS.PROPOSAL_FILES_{split}": p
        for split, p in zip(("TRAIN", "TEST"), paths, strict=True)
    }


def topk_test(number):
    return {"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": number}


def msra(depth):
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.WEIGHTS": f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl",
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "INPUT.FORMAT": "BGR",
    }


VGG16 = BOXES | VOC | TORCHVISION | CLASSIFIER | SCALE_600 | SGD | LIMITED | {  # [F]
    "MODEL.WEIGHTS": VGG16_URL,
    "MODEL.BACKBONE.NAME": "mask_rcnn_ext_vgg16_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,  # conv3_1 and up are trained
    "MODEL.RESNETS.OUT_FEATURES": ["conv5"],
    "MODEL.RPN.IN_FEATURES": ["conv5"],
    "MODEL.ROI_HEADS.NAME": "MaskRCNNROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["conv5"],
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "SOLVER.WEIGHT_DECAY_BIAS": None,  # of biases too
}  # fmt: skip
FAST = VGG16 | STORED | batch(2, 64) | iterations(40_000, 30_000) | topk_test(2000)
RPN = {
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,  # code
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,  # code
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.1111,  # code
}
OF_FASTER = RPN | topk_test(300) | {  # [FR]
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.RPN.BOUNDARY_THRESH": 0,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 300,
}  # fmt: skip
THREE = {"MODEL.ANCHOR_GENERATOR.SIZES": [[128, 256, 512]]}
FOUR = {"MODEL.ANCHOR_GENERATOR.SIZES": [[64, 128, 256, 512]]}
FASTER = VGG16 | OF_FASTER | THREE | batch(1, 128) | iterations(80_000, 60_000)
ON_COCO = FOUR | ALL_BELOW | COCO_2014 | batch(8, 128) | iterations(320_000, 240_000)
C4 = BOXES | {
    "MODEL.BACKBONE.FREEZE_AT": 2,  # choice
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.NAME": "MaskRCNNRes5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,  # choice
}
FPN_BASELINE = C4 | ALL_BELOW | COCO_2017 | RPN | batch(16, 512) | iterations(80_000, 60_000) | {
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.RPN.BOUNDARY_THRESH": -1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    "INPUT.MIN_SIZE_TRAIN": [800],
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TRAIN": 1333,  # choice
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WARMUP_ITERS": 1000,  # choice
}  # fmt: skip
CROPS = BOXES | VOC | TORCHVISION | CLASSIFIER | SGD | STORED | ALL_BELOW | topk_test(2000) | {
    **batch(16, 8),
    **iterations(70_000, 20_000, 40_000, 60_000),  # code
    **files("selective_search", "voc_2007_trainval", "voc_2007_test"),
    "MODEL.META_ARCHITECTURE": "MaskRCNNExtRCNN",
    "MODEL.WEIGHTS": ALEXNET_URL,
    "MODEL.BACKBONE.NAME": "mask_rcnn_ext_alexnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.OUT_FEATURES": ["pool5"],
    "MODEL.RCNN.CROP_SIZE": 227,
    "MODEL.RCNN.CROP_CONTEXT": 16,
    "MODEL.RCNN.SCORER": "softmax",
    "MODEL.ROI_HEADS.NAME": "RCNNROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["pool5"],
    "INPUT.MIN_SIZE_TRAIN": [0],
    "INPUT.MIN_SIZE_TEST": 0,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,  # code
}  # fmt: skip
RES5 = {
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
    "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
    "MODEL.ROI_BOX_HEAD.DROPOUT": 0.0,
}
RECIPES = {
    "lineage/rcnn_AlexNet": CROPS,
    "lineage/rcnn_AlexNet_svm": CROPS
    | {"MODEL.RCNN.SCORER": "svm", "MODEL.WEIGHTS": "output/rcnn_AlexNet/model_final.pth"},
    "lineage/rcnn_VGG16": CROPS
    | batch(6, 4)  # 24 crops: [R]
    | {
        "MODEL.WEIGHTS": VGG16_URL,
        "MODEL.BACKBONE.NAME": "mask_rcnn_ext_vgg16_backbone",
        "MODEL.RCNN.CROP_SIZE": 224,  # choice
    },
    "lineage/rcnn_R50": CROPS | msra(50) | RES5,
    "lineage/fast_rcnn_VGG16": FAST
    | files("selective_search", "voc_2007_trainval", "voc_2007_test"),
    "lineage/fast_rcnn_VGG16_COCO": FAST
    | COCO_2014
    | files("selective_search", "coco_2014_train", "coco_2014_val")
    | iterations(240_000, 200_000),  # the drop: code
    "lineage/fast_rcnn_R50_C4": FPN_BASELINE
    | msra(50)
    | STORED
    | files("rpn_R50_FPN", "coco_2017_train", "coco_2017_val"),
    "lineage/faster_rcnn_VGG16": FASTER,
    "lineage/faster_rcnn_VGG16_COCO": FASTER | ON_COCO | {"SOLVER.BASE_LR": 0.003},
    "lineage/faster_rcnn_R50_C4": FPN_BASELINE | msra(50),
    "lineage/faster_rcnn_R101_C4": C4 | SGD | SCALE_600 | OF_FASTER | ON_COCO | msra(101),
}

# (method, model, trained on, tested on) -> mAP, from the papers' tables, copied by hand.
_RIDGE, _VOC07 = "AlexNet, SVMs and box regression", ("VOC 2007", "VOC 2007 test")
VOC_NUMBERS = {
    ("R-CNN", "AlexNet, softmax", *_VOC07): 50.9,  # appendix B
    ("R-CNN", "AlexNet, SVMs", *_VOC07): 54.2,
    ("R-CNN", _RIDGE, *_VOC07): 58.5,
    ("R-CNN", "AlexNet, SVMs", "VOC 2012", "VOC 2010 test"): 50.2,
    ("R-CNN", _RIDGE, "VOC 2012", "VOC 2010 test"): 53.7,
    ("R-CNN", "AlexNet, SVMs", "VOC 2012", "VOC 2012 test"): 49.6,
    ("R-CNN", _RIDGE, "VOC 2012", "VOC 2012 test"): 53.3,
    ("R-CNN", "VGG-16, SVMs and box regression", *_VOC07): 66.0,
    ("Fast R-CNN", "VGG-16", *_VOC07): 66.9,
    ("Fast R-CNN", "VGG-16", "VOC 2007+2012", "VOC 2007 test"): 70.0,
    ("Faster R-CNN", "VGG-16, features not shared", *_VOC07): 68.5,
    ("Faster R-CNN", "VGG-16", *_VOC07): 69.9,
    ("Faster R-CNN", "VGG-16", "VOC 2007+2012", "VOC 2007 test"): 73.2,
}
