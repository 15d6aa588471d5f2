"""The recipe of each FCIS config, key by key, for `test_recipes.py`.

The numbers are facts of FCIS's released code (its COCO model with OHEM), section by section: [1.1]
backbone, [1.2] RPN, [1.3] the heads' convolutions, [2] pooling, [4.1] labels, [4.2] mask targets,
[4.3] losses, [4.4] OHEM, [5] training, [6] inference; [paper]: arXiv:1611.07709; "choice": neither
says it. A recipe has all keys in which the config differs from the defaults.
"""

from .paper_recipes import resnet

FCIS = {
    "MODEL.META_ARCHITECTURE": "MaskRCNNExtFCIS",
    "MODEL.MASK_ON": True,
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,  # conv1 and res2 [1.1]
    "MODEL.RESNETS.OUT_FEATURES": ["res4", "res5"],  # of the RPN [1.2], of the heads [1.3]
    "MODEL.RESNETS.RES5_DILATION": 2,  # [1.1], as the next three
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RPN.HEAD_NAME": "StandardRPNHead",
    "MODEL.RPN.CONV_DIMS": [512],  # [1.2], as all of the RPN
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[64, 128, 256, 512]],  # 16 times 4, 8, 16, 32
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.RPN.BOUNDARY_THRESH": 0,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 6000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 300,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 300,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.1111,  # sigma 3: 1/9 [4.3]
    "MODEL.RPN.LOSS_WEIGHT": 1.0,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 2,  # [1.2], and detections [6]
    "MODEL.ROI_HEADS.NAME": "FCISROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],  # [4.1], as the next two
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [5.0, 5.0, 2.0, 2.0],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 128,  # [4.4]
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,  # [6], as the next two
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,  # sigma 1 [4.3]
    "MODEL.FCIS.NUM_BINS": 7,  # [1.3]
    "MODEL.FCIS.POOLED_SIZE": 21,  # [1.3]
    "MODEL.FCIS.POOLER_TYPE": "PSROIPool",  # [2]
    "MODEL.FCIS.CONV_DIM": 1024,  # [1.3], as the next one
    "MODEL.FCIS.CONV_LR_FACTOR": 3.0,
    "MODEL.FCIS.OHEM": True,  # [4.4]
    "MODEL.FCIS.MASK_LOSS_WEIGHT": 10.0,  # [4.3]
    "MODEL.FCIS.NUM_PASSES_TEST": 2,  # [6]
    "MODEL.FCIS.MASK_THRESH": 0.4,  # [4.2], [6]
    "MODEL.FCIS.MASK_VOTING": True,  # [6]
    "MODEL.FCIS.VOTE_IOU_THRESH": 0.5,  # [6]
    "DATASETS.TRAIN": ["coco_2017_train"],  # trainval35k [5]
    "DATASETS.TEST": ["coco_2017_val"],  # minival [5]
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 300,  # in two stages: choice, as the RPN's
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 300,
    "INPUT.FORMAT": "BGR",  # of the weights
    "INPUT.MIN_SIZE_TRAIN": [600],  # [5], as all of INPUT
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1000,
    "INPUT.MIN_SIZE_TEST": 600,
    "INPUT.MAX_SIZE_TEST": 1000,
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.MASK_FORMAT": "bitmask",  # whole masks [4.2]
    "SOLVER.IMS_PER_BATCH": 8,  # [5], as all of SOLVER
    "SOLVER.BASE_LR": 0.004,  # 0.0005 for each of 8 images
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 0.0005,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.MAX_ITER": 240_000,  # about 234.5k, rounded: choice
    "SOLVER.STEPS": [160_000],  # about 156k
    "SOLVER.WARMUP_METHOD": "constant",
    "SOLVER.WARMUP_FACTOR": 0.1,
    "SOLVER.WARMUP_ITERS": 250,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "TEST.AUG.ENABLED": False,
}


SCALES = [480, 576, 688, 864, 1200, 1400]  # [paper]
R101 = FCIS | resnet(101)
RECIPES = {
    "fcis_R101_C5_dilated": R101,
    "fcis/fcis_R50_C5_dilated": FCIS | resnet(50),
    "fcis/fcis_R101_C5_dilated_random": R101
    | {"MODEL.FCIS.OHEM": False, "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25},  # [4.1]
    "fcis/fcis_R101_C5_dilated_k1": R101 | {"MODEL.FCIS.NUM_BINS": 1},
    "fcis/fcis_R101_C5_dilated_PSROIAlign": R101 | {"MODEL.FCIS.POOLER_TYPE": "PSROIAlign"},
    "fcis/fcis_plusplusplus_R101_C5_dilated": R101
    | {
        "INPUT.MIN_SIZE_TRAIN": SCALES,
        "INPUT.MAX_SIZE_TRAIN": 2333,  # 1400 * 1000 / 600: choice
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.MIN_SIZES": SCALES,
        "TEST.AUG.MAX_SIZE": 2333,
        "TEST.AUG.FLIP": True,
    },
}
