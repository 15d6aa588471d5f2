"""The recipe of each config of the paper (arXiv:1703.06870v3), key by key, for `test_recipes.py`.

Sections and tables are in brackets; "choice": the paper says nothing. A recipe has all keys in
which the config differs from the defaults.
"""

EVERY = {
    "MODEL.META_ARCHITECTURE": "MaskRCNN",
    "MODEL.MASK_ON": True,
    "MODEL.RPN.NMS_THRESH": 0.7,  # Faster R-CNN
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,  # FPN; for C4 Detectron's
    "MODEL.RPN.SMOOTH_L1_BETA": 0.1111,  # Detectron
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,  # Faster R-CNN
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],  # Faster R-CNN
    "MODEL.RPN.BOUNDARY_THRESH": -1,  # anchors across the border count (FPN)
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],  # 5 scales, 3 ratios [3.1]
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,  # 1:3 [3.1]
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],  # [3.1]
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,  # "default value" [appendix B]
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,  # Figure 4
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",  # [3]
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,  # four points [3]
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,  # Fast R-CNN
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNFCNHead",
    "MODEL.ROI_MASK_HEAD.LOSS": "sigmoid",  # [3]
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": False,  # [3]
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION": 0,  # twice what is pooled: 14 (C4), 28 [Figure 4]
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,  # Figure 4
    "MODEL.ROI_MASK_HEAD.PASTE_THRESH": 0.5,  # [3.1]
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": 2,
    "DATASETS.TRAIN": ["coco_2017_train"],  # trainval35k
    "DATASETS.TEST": ["coco_2017_val"],  # minival
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "INPUT.MIN_SIZE_TRAIN": [800],  # [3.1]
    "INPUT.MIN_SIZE_TEST": 800,
    "SOLVER.IMS_PER_BATCH": 16,  # [3.1], as the next six
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.STEPS": [120_000],
    "SOLVER.MAX_ITER": 160_000,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.MOMENTUM": 0.9,
    "TEST.DETECTIONS_PER_IMAGE": 100,  # [3.1]
}
HEADS = {  # Figure 4, right
    "MODEL.ROI_HEADS.NAME": "MaskRCNNROIHeads",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,  # [3.1]; C5: choice
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,  # [3.1]; C5: choice
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}
LEVELS = ["res2", "res3", "res4", "res5"]
FPN = EVERY | HEADS | {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": LEVELS,
    "MODEL.FPN.IN_FEATURES": LEVELS,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],  # FPN: one per level
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}  # fmt: skip
C4 = EVERY | {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,  # Detectron
    "MODEL.RPN.POST_NMS_TOPK_TEST": 300,  # [3.1]
    "MODEL.ROI_HEADS.NAME": "MaskRCNNRes5ROIHeads",  # Figure 4, left
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,  # [3.1]
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 300,
}
C5 = EVERY | HEADS | {  # [Table 2d]
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}  # fmt: skip


def resnet(depth):
    weights = f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl"
    return {
        "MODEL.RESNETS.DEPTH": depth, "MODEL.RESNETS.NUM_GROUPS": 1, "MODEL.WEIGHTS": weights,
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675], "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    }  # fmt: skip


def resnext(depth, groups, width, weights):
    return {  # one image per GPU, learning rate 0.01, the same iterations [3.1]
        "MODEL.RESNETS.DEPTH": depth, "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width, "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.WEIGHTS": f"catalog://ImageNetPretrained/FAIR/{weights}",
        "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717], "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "SOLVER.IMS_PER_BATCH": 8, "SOLVER.BASE_LR": 0.01,
    }  # fmt: skip


def iterations(last, *steps):
    return {"SOLVER.STEPS": list(steps), "SOLVER.MAX_ITER": last}


def shorter_side(low, high):
    return {"INPUT.MIN_SIZE_TRAIN": [low, high], "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}


def layer(name, *heads):
    return {f"MODEL.ROI_{head}_HEAD.POOLER_TYPE": name for head in heads}


def mlp(layers):
    return {
        "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNMLPHead",
        "MODEL.ROI_MASK_HEAD.NUM_FC": layers,
        "MODEL.ROI_MASK_HEAD.FC_DIM": 1024,
    }


X101 = FPN | resnext(101, 64, 4, "X-101-64x4d")  # 64 x 4d: ICCV version's footnote
R50_C4, R50_C5, R50_FPN = (model | resnet(50) for model in (C4, C5, FPN))
NMS = {"MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5}  # [5] and [appendix B]
MASK, NO_MASK = {"MODEL.MASK_ON": True}, {"MODEL.MASK_ON": False}
NO_KEYPOINT = {"MODEL.KEYPOINT_ON": False}
KEYPOINT = NMS | NO_MASK | shorter_side(640, 800) | iterations(90_000, 60_000, 80_000) | {  # [5]
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": "KRCNNConvDeconvUpsampleHead",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [512] * 8,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 17,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 14,
    "DATASETS.TRAIN": ["keypoints_coco_2017_train"],
    "DATASETS.TEST": ["keypoints_coco_2017_val"],
}  # fmt: skip
KEYPOINT_UPDATED = KEYPOINT | iterations(130_000, 100_000, 120_000)  # [appendix B]
KEYPOINT_X101 = X101 | KEYPOINT_UPDATED | {  # Detectron: two images per GPU, as for ResNet
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
}  # fmt: skip
TTA = {  # [appendix B]
    "TEST.AUG.ENABLED": True,
    "TEST.AUG.MIN_SIZES": list(range(400, 1201, 100)),
    "TEST.AUG.MAX_SIZE": 2000,  # Detectron
    "TEST.AUG.FLIP": True,
}
CITYSCAPES = shorter_side(800, 1024) | iterations(24_000, 18_000) | {  # [appendix A]
    "MODEL.ROI_HEADS.NUM_CLASSES": 8,
    "DATASETS.TRAIN": ["cityscapes_fine_instance_seg_train"],
    "DATASETS.TEST": ["cityscapes_fine_instance_seg_val"],
    "INPUT.MIN_SIZE_TEST": 1024,
    "INPUT.MAX_SIZE_TRAIN": 2048,
    "INPUT.MAX_SIZE_TEST": 2048,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.BASE_LR": 0.01,
}  # fmt: skip
UPDATED = X101 | NMS | iterations(180_000, 120_000, 160_000)  # [appendix B], as the next three
AUGMENTED = UPDATED | shorter_side(640, 800) | iterations(260_000, 200_000, 240_000)
X152 = AUGMENTED | resnext(152, 32, 8, "X-152-32x8d-IN5k")
NONLOCAL = X152 | {
    "MODEL.BACKBONE.NAME": "mask_rcnn_ext_nonlocal_resnet_fpn_backbone",
    "MASK_RCNN_EXT.NON_LOCAL.STAGES": ["res4"],
}
RECIPES = {
    "mask_rcnn_R50_FPN": R50_FPN,
    "mask_rcnn_R101_FPN": FPN | resnet(101),
    "mask_rcnn_X101_FPN": X101,
    "mask_rcnn_R50_C4": R50_C4,
    "mask_rcnn_R101_C4": C4 | resnet(101),
    "faster_rcnn_R101_FPN": FPN | resnet(101) | NO_MASK,
    "ablations/mask_rcnn_R50_C4_softmax": R50_C4 | {"MODEL.ROI_MASK_HEAD.LOSS": "softmax"},
    "ablations/mask_rcnn_R50_C4_agnostic": R50_C4
    | {
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    },
    "ablations/mask_rcnn_R50_C4_RoIPool": R50_C4 | layer("ROIPool", "BOX"),
    "ablations/mask_rcnn_R50_C4_RoIWarpMax": R50_C4 | layer("ROIWarpMax", "BOX"),
    "ablations/mask_rcnn_R50_C4_RoIWarpAve": R50_C4 | layer("ROIWarpAve", "BOX"),
    "ablations/mask_rcnn_R50_C4_RoIAlignMax": R50_C4 | layer("ROIAlignMax", "BOX"),
    "ablations/mask_rcnn_R50_C5": R50_C5,
    "ablations/mask_rcnn_R50_C5_RoIPool": R50_C5 | layer("ROIPool", "BOX", "MASK"),
    "ablations/mask_rcnn_R50_DC5": R50_C5 | {"MODEL.RESNETS.RES5_DILATION": 2},  # no row
    "ablations/mask_rcnn_R50_FPN_RoIPool": R50_FPN | layer("ROIPool", "BOX", "MASK"),
    "ablations/faster_rcnn_R101_FPN_RoIPool": FPN
    | resnet(101)
    | NO_MASK
    | layer("ROIPool", "BOX"),
    "ablations/mask_rcnn_R50_FPN_MLP2": R50_FPN | mlp(2),
    "ablations/mask_rcnn_R50_FPN_MLP3": R50_FPN | mlp(3),
    "keypoints/keypoint_rcnn_R50_FPN": R50_FPN | KEYPOINT,
    "keypoints/keypoint_mask_rcnn_R50_FPN": R50_FPN | KEYPOINT | MASK,
    "keypoints/mask_rcnn_R50_FPN_person": R50_FPN | KEYPOINT | NO_KEYPOINT | MASK,
    "keypoints/faster_rcnn_R50_FPN_person": R50_FPN | KEYPOINT | NO_KEYPOINT,
    "keypoints/keypoint_rcnn_R50_FPN_RoIPool": R50_FPN
    | KEYPOINT
    | layer("ROIPool", "BOX", "KEYPOINT"),
    "keypoints/keypoint_rcnn_R50_FPN_updated": R50_FPN | KEYPOINT_UPDATED,
    "keypoints/keypoint_rcnn_R101_FPN": FPN | resnet(101) | KEYPOINT_UPDATED,
    "keypoints/keypoint_rcnn_X101_FPN": KEYPOINT_X101,
    "keypoints/keypoint_rcnn_X101_FPN_TTA": KEYPOINT_X101 | TTA,
    "cityscapes/mask_rcnn_R50_FPN_fine": R50_FPN | CITYSCAPES,
    "cityscapes/mask_rcnn_R50_FPN_fine_coco": R50_FPN
    | CITYSCAPES
    | iterations(4_000, 3_000)
    | {"MODEL.WEIGHTS": "output/coco_for_cityscapes.pth"},
    "enhanced/mask_rcnn_X101_FPN_updated": UPDATED,
    "enhanced/mask_rcnn_X101_FPN_e2e": UPDATED,
    "enhanced/mask_rcnn_X101_FPN_augm": AUGMENTED,
    "enhanced/mask_rcnn_X152_FPN": X152,
    "enhanced/mask_rcnn_X152_FPN_nonlocal": NONLOCAL,
    "enhanced/mask_rcnn_X152_FPN_nonlocal_TTA": NONLOCAL | TTA,
}  # fmt: skip
