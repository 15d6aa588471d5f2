"""Every config key that this package adds to detectron2's, with its default and its meaning.

With the defaults, detectron2's models do not change.
"""

from typing import Any

from detectron2.config import CfgNode

__all__ = ["add_mask_rcnn_ext_config"]


def _declare(cfg: CfgNode, name: str, default: Any) -> None:
    """Add the key `name`, with dots; keep an existing value, but refuse another type."""
    *parents, key = name.split(".")
    node = cfg
    for parent in parents:
        if parent not in node:
            node[parent] = type(cfg)()  # yacs merges only nodes of one class
        node = node[parent]
    if key not in node:
        node[key] = default
    elif type(node[key]) is not type(default):
        raise ValueError(f"{name}: expected a {type(default).__name__}, got {node[key]!r}")


# The comment above a declaration describes its key. `projects/reproduction/make_tables.py` writes
# the comments into docs/configs.md, so they are Markdown and can be read without the code. Keys
# without an empty line or a comment between them share the comment above the first key.


def add_mask_rcnn_ext_config(cfg: CfgNode) -> None:
    """Add this package's keys to `cfg`, in place. Calling it twice changes nothing.

    Args:
        cfg: a detectron2 config. Values that are already set are kept.

    Raises:
        ValueError: another project declared one of the keys with another type.
    """
    _declare_data_keys(cfg)
    _declare_run_keys(cfg)
    _declare_augmentation_keys(cfg)
    _declare_mask_head_keys(cfg)
    _declare_rcnn_keys(cfg)
    _declare_fcis_keys(cfg)
    _declare_backbone_keys(cfg)


def _declare_data_keys(cfg: CfgNode) -> None:
    """Add the classes and the user's own data."""
    # Class names and their ids in the annotation file, in the order of the model's classes. A run
    # fills them in when it starts, so `config.yaml` and the weights are enough to predict with.
    _declare(cfg, "MASK_RCNN_EXT.CLASS_NAMES", [])
    _declare(cfg, "MASK_RCNN_EXT.CATEGORY_IDS", [])
    # Your own COCO-format data. `train_net.py --train-json F --train-images D --val-json F
    # --val-images D` sets these four keys. When they are set, `DATASETS.TRAIN`, `DATASETS.TEST`,
    # the class count and `INPUT.MASK_FORMAT` follow from the files.
    _declare(cfg, "MASK_RCNN_EXT.DATA.TRAIN_JSON", "")
    _declare(cfg, "MASK_RCNN_EXT.DATA.TRAIN_IMAGES", "")
    _declare(cfg, "MASK_RCNN_EXT.DATA.VAL_JSON", "")
    _declare(cfg, "MASK_RCNN_EXT.DATA.VAL_IMAGES", "")
    # The fraction of the images of `TRAIN_JSON` to train on; validation takes the rest (`--split`).
    # The run writes both parts into its folder, names them in the keys above, and sets this key
    # back to 0, which is no split.
    _declare(cfg, "MASK_RCNN_EXT.DATA.SPLIT", 0.0)
    # Images that stay on one side of the split (`--group-by`): a key of the json's images, or a
    # regular expression for file names. Images with the same value or match are one group.
    _declare(cfg, "MASK_RCNN_EXT.DATA.GROUP_BY", "")
    # Number of channels of images that are not 8-bit colour. Files (`.npy`, TIFF, PNG) are read as
    # float32, without clipping, in training, evaluation and prediction. 0: 8-bit colour images.
    _declare(cfg, "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS", 0)
    # The largest image that is read, in pixels. It bounds the memory: an image takes about 11 bytes
    # for each pixel while it is read. With `IMAGE_CHANNELS`, C channels count as C / 3 images. 0:
    # Pillow's limit, 178,956,970.
    _declare(cfg, "MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS", 0)
    # With `IMAGE_CHANNELS`: `"auto"` measures `MODEL.PIXEL_MEAN` and `PIXEL_STD` on up to 200
    # training images when training starts, and writes them into the run's `config.yaml`, where this
    # key is then `"fixed"`. `"fixed"` takes both keys as they are.
    _declare(cfg, "MASK_RCNN_EXT.DATA.PIXEL_STATISTICS", "auto")
    # `True` makes a malformed annotation, and one that contradicts itself or repeats another, an
    # error (`--strict-data`). By default malformed annotations are dropped, the others are kept,
    # and both are counted.
    _declare(cfg, "MASK_RCNN_EXT.DATA.STRICT", False)
    # What happens when an image is damaged or missing, before a run or during it. `"error"` ends
    # the run with the name of the image. `"skip"` trains on the next image in its place, leaves it
    # out of the evaluation, and lists it in the log, in `results.json` and in the report. If all
    # images are missing, the run ends.
    _declare(cfg, "MASK_RCNN_EXT.DATA.ON_BAD_IMAGE", "error")
    # `True` takes the box of every annotation from its mask, and ignores the `bbox` of the json.
    _declare(cfg, "MASK_RCNN_EXT.DATA.BOXES_FROM_MASKS", False)


def _declare_run_keys(cfg: CfgNode) -> None:
    """Add the keys of every model, for training, evaluation and prediction."""
    # Number format of mixed precision, which detectron2's `SOLVER.AMP.ENABLED` switches on:
    # `"float16"` or `"bfloat16"`. `"auto"` is float16 with loss scaling on CUDA (detectron2's
    # choice). On a CPU it is bfloat16 if the CPU computes in it (`avx512_bf16` in `/proc/cpuinfo`),
    # else float32, which is faster there.
    _declare(cfg, "MASK_RCNN_EXT.AMP_DTYPE", "auto")
    # Evaluate and predict in mixed precision too. detectron2 evaluates in float32.
    _declare(cfg, "MASK_RCNN_EXT.AMP_INFERENCE", False)
    # While other programs use the cores, train with fewer threads, or in float32; on a CPU, in one
    # process. A step can take several times as long then. The weights are no longer the same, bit
    # for bit, in every run.
    _declare(cfg, "MASK_RCNN_EXT.ADAPT_TO_LOAD", False)
    # On a CPU under Linux, keep freed memory for the next image or training step. This is faster,
    # takes up to a third more memory, and changes no result. It applies to the whole process. If a
    # variable such as `MALLOC_TRIM_THRESHOLD_` is set, the key changes nothing.
    _declare(cfg, "MASK_RCNN_EXT.REUSE_MEMORY", True)
    # Keep weights in the channels_last memory format. This makes convolutions in mixed precision
    # faster, on CPU and on CUDA.
    _declare(cfg, "MASK_RCNN_EXT.CHANNELS_LAST", False)
    # Compute RoIAlign on a CPU as a weighted sum of feature cells, forward and backward: several
    # times faster than torchvision's kernel, and equal up to the rounding of float32. Nothing
    # changes on CUDA.
    _declare(cfg, "MASK_RCNN_EXT.GATHERED_ROI_ALIGN", False)
    # Compute the masks of one class of each RoI only: of its true class in training, of its
    # predicted class in prediction. Equal up to the rounding of float32, and with many classes
    # faster, in a small part of the memory. Only for class-specific masks with the sigmoid loss, of
    # `MaskRCNNFCNHead` and detectron2's `MaskRCNNConvUpsampleHead`; a line says if the model has
    # none.
    _declare(cfg, "MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR", False)
    # The level of speed of prediction and evaluation (`predict.py --speed`), also of evaluations in
    # training. `"exact"`: the tensors of detectron2's code. `"fast"`: equal up to the rounding of
    # float32. `"fastest"`: mixed precision. See [the levels](prediction.md#speed).
    _declare(cfg, "MASK_RCNN_EXT.SPEED", "exact")
    # `"SGD"` is detectron2's optimizer. `"AdamW"` reads `SOLVER.BASE_LR`, `SOLVER.WEIGHT_DECAY` and
    # detectron2's rules for norms and biases. It learns faster when training from scratch is short.
    _declare(cfg, "MASK_RCNN_EXT.OPTIMIZER", "SGD")
    # Names of evaluators that run next to COCO's. `"FCISComparisonEvaluator"` measures AP by
    # overlap level, Boundary AP, and the errors where objects meet.
    _declare(cfg, "MASK_RCNN_EXT.EVALUATORS", [])
    # Where the losses and the AP of a training go, next to `metrics.json`: `"tensorboard"`,
    # `"wandb"`, `"mlflow"` and `"trackio"`, as far as they are installed.
    _declare(cfg, "MASK_RCNN_EXT.LOGGERS", ("tensorboard",))
    # Names of the model's parts, such as `"backbone"`, `"backbone.bottom_up.res2"` or
    # `"proposal_generator"`. Training does not change their weights or batch statistics.
    _declare(cfg, "MASK_RCNN_EXT.FREEZE", [])
    # Factor between the learning rate of the backbone and `SOLVER.BASE_LR`, such as 0.1 for a
    # backbone with ImageNet weights. The layers of an FPN, which start from scratch, are not part
    # of this.
    _declare(cfg, "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", 1.0)
    _declare_selection_keys(cfg)


def _declare_selection_keys(cfg: CfgNode) -> None:
    """Add the keys that decide which weights a training keeps, and when it ends."""
    # Measure the losses on `DATASETS.TEST` with every evaluation in training, by part and without
    # augmentation, as `validation_loss/...`.
    _declare(cfg, "MASK_RCNN_EXT.VALIDATION_LOSS", False)
    # Keep the weights of the best evaluation in `model_best.pth`. `TEST.EVAL_PERIOD` says how often
    # training evaluates.
    _declare(cfg, "MASK_RCNN_EXT.BEST_CHECKPOINT.ENABLED", False)
    # The metric that decides which evaluation is the best, such as `"segm/AP50"` or
    # `"validation_loss/total_loss"`. `""` is mask AP; without masks, AP of keypoints; without
    # these, box AP; of a proposal network, the average recall of 1000 proposals.
    _declare(cfg, "MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC", "")
    # Training ends when so many evaluations in a row have not improved
    # `BEST_CHECKPOINT.METRIC`. Evaluations before its first value above 0 do not count. 0 trains to
    # `SOLVER.MAX_ITER`. Any other value also keeps `model_best.pth`.
    _declare(cfg, "MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE", 0)
    # Evaluate and save a moving average of the weights. The decay of update n = 0, 1, 2, ... is
    # min(`DECAY`, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    _declare(cfg, "MASK_RCNN_EXT.EMA.ENABLED", False)
    _declare(cfg, "MASK_RCNN_EXT.EMA.DECAY", 0.999)


def _declare_augmentation_keys(cfg: CfgNode) -> None:
    """Add the keys that change training images at random, in addition to detectron2's."""
    # Flip half of the training images upside down. Together with detectron2's
    # `INPUT.RANDOM_FLIP "horizontal"`, which is its default, images are flipped both ways.
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.VERTICAL_FLIP", False)
    # Turn training images by an angle between this many degrees to the left and to the right, at
    # most 180. The size of the image stays. Boxes are taken from the turned masks, and objects
    # without a mask get the box around their turned box.
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.ROTATION", 0.0)
    # Smallest and largest scale, such as `[0.5, 2.0]`; the paper of copy-paste has `[0.1, 2.0]`. An
    # image gets a random multiple of the size that `INPUT.MIN_SIZE_TRAIN` and `MAX_SIZE_TRAIN` give
    # it, and is cropped to that size. For a crop alone, use detectron2's `INPUT.CROP`.
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.SCALE_JITTER", [])
    # Change colours: the factors of brightness, contrast and saturation are drawn from 1 - x to
    # 1 + x, and the hue is shifted by up to x, where 0.5 is half the circle of colours.
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.BRIGHTNESS", 0.0)
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.CONTRAST", 0.0)
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.SATURATION", 0.0)
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.HUE", 0.0)
    # Blur with a Gaussian whose sigma is drawn from 0 to this many pixels of the resized image.
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.BLUR", 0.0)
    # Share of the training images that get objects of another training image pasted into them
    # (arXiv:2012.07177). The masks and boxes of objects below them shrink. An object that is
    # wholly covered is dropped.
    _declare(cfg, "MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE", 0.0)


def _declare_mask_head_keys(cfg: CfgNode) -> None:
    """Add the keys of `MaskRCNNFCNHead`, `MaskRCNNMLPHead` and the meta-architecture `MaskRCNN`."""
    # `"sigmoid"` predicts one binary mask per class, as the paper does. With `"softmax"` the
    # classes and the background compete at each pixel (Table 2b).
    _declare(cfg, "MODEL.ROI_MASK_HEAD.LOSS", "sigmoid")
    # How masks are read under `"softmax"`. `False`: a pixel belongs to the mask when the predicted
    # class has at least `PASTE_THRESH` of the probability. `True`: when the predicted class is the
    # likeliest of all classes and the background. The key changes no weights.
    _declare(cfg, "MODEL.ROI_MASK_HEAD.SOFTMAX_ARGMAX", False)
    # Side of the predicted masks: 14, 28, 56 or 112. 0 is twice the side of the pooled features.
    _declare(cfg, "MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION", 0)
    # Number of hidden layers of `MaskRCNNMLPHead` (Table 2e), and their width. detectron2's
    # PointRend project has the same two keys, with the same meaning and defaults.
    _declare(cfg, "MODEL.ROI_MASK_HEAD.NUM_FC", 2)
    _declare(cfg, "MODEL.ROI_MASK_HEAD.FC_DIM", 1024)
    # A pixel belongs to the pasted mask when its probability is at least this (section 3.1,
    # "Inference").
    _declare(cfg, "MODEL.ROI_MASK_HEAD.PASTE_THRESH", 0.5)
    # Standard deviation of the first weights of the mask predictor; the default is detectron2's.
    # AdamW moves weights that are so small together, and all become positive, so that background
    # stays near a probability of 0.5 in short trainings. With 0.18, which is the square root of
    # 2 / `CONV_DIM` for 64 channels, part of the weights stay negative, and masks are learned
    # sooner.
    _declare(cfg, "MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD", 0.001)


def _declare_rcnn_keys(cfg: CfgNode) -> None:
    """Add the keys of `MaskRCNNExtRCNN` and `MaskRCNNExtClassifierBoxHead`."""
    # Side of R-CNN's warped crops in pixels, and the number of pixels on each side of a crop that
    # show the surroundings of the proposal.
    _declare(cfg, "MODEL.RCNN.CROP_SIZE", 227)
    _declare(cfg, "MODEL.RCNN.CROP_CONTEXT", 16)
    # Number of crops that the backbone takes at once in testing. Fewer crops need less memory.
    _declare(cfg, "MODEL.RCNN.CROPS_PER_BATCH", 256)
    # `"softmax"`: class scores and boxes are learned with the backbone. `"svm"`: one linear SVM per
    # class and ridge regression of the boxes, which `tools/train_rcnn_svm.py` fits to a trained
    # backbone.
    _declare(cfg, "MODEL.RCNN.SCORER", "softmax")
    # Cost of an SVM's error on an object of its class. An error on a background proposal costs 1.
    # If this is too small where features are few or objects rare, the best SVM gives a margin of -1
    # everywhere.
    _declare(cfg, "MODEL.RCNN.SVM_POSITIVE_WEIGHT", 2.0)
    # Share of the units that training drops in the fully connected layers of
    # `MaskRCNNExtClassifierBoxHead`.
    _declare(cfg, "MODEL.ROI_BOX_HEAD.DROPOUT", 0.0)


def _declare_fcis_keys(cfg: CfgNode) -> None:
    """Add the keys of `MaskRCNNExtFCIS` and `FCISROIHeads`, in addition to detectron2's."""
    # k: each score map has k x k position-sensitive copies, one for each part of an object.
    _declare(cfg, "MODEL.FCIS.NUM_BINS", 7)
    # P: the side of the pooled maps, and so of the masks.
    _declare(cfg, "MODEL.FCIS.POOLED_SIZE", 21)
    # `"PSROIPool"` is the paper's. `"PSROIAlign"` samples bilinearly and rounds nothing; it needs a
    # `POOLED_SIZE` that is a multiple of `NUM_BINS`.
    _declare(cfg, "MODEL.FCIS.POOLER_TYPE", "PSROIPool")
    # `PSROIAlign` takes n x n samples in each of the P x P cells. 0 takes as many as the cell spans
    # feature cells.
    _declare(cfg, "MODEL.FCIS.POOLER_SAMPLING_RATIO", 0)
    # Channels of the 1 x 1 convolution before the score maps, and the factor between its learning
    # rate and `SOLVER.BASE_LR`.
    _declare(cfg, "MODEL.FCIS.CONV_DIM", 1024)
    _declare(cfg, "MODEL.FCIS.CONV_LR_FACTOR", 3.0)
    # `True`: train on the `MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE` RoIs that have the largest loss.
    # `False`: train on that many random RoIs, at most `MODEL.ROI_HEADS.POSITIVE_FRACTION` of them
    # positive.
    _declare(cfg, "MODEL.FCIS.OHEM", True)
    # Weight of the mask loss. The class loss and the box loss have weight 1.
    _declare(cfg, "MODEL.FCIS.MASK_LOSS_WEIGHT", 10.0)
    # How often RoIs are pooled in testing. After each time but the last they move to the predicted
    # boxes. The results of all times are kept.
    _declare(cfg, "MODEL.FCIS.NUM_PASSES_TEST", 2)
    # A pixel belongs to a mask when its probability is at least this: in targets, in votes and in
    # the result.
    _declare(cfg, "MODEL.FCIS.MASK_THRESH", 0.4)
    # `True`: the mask of a detection is the average of the masks of all RoIs whose box has an IoU
    # of at least `VOTE_IOU_THRESH` with the detection's box, weighted by their scores. `False`: the
    # detection keeps the mask of its RoI, and the RoI is its box.
    _declare(cfg, "MODEL.FCIS.MASK_VOTING", True)
    _declare(cfg, "MODEL.FCIS.VOTE_IOU_THRESH", 0.5)


def _declare_backbone_keys(cfg: CfgNode) -> None:
    """Add the keys of the backbones of this package."""
    # Stages of `mask_rcnn_ext_nonlocal_resnet_fpn_backbone` that get a non-local block (Table 8),
    # before their last residual block.
    _declare(cfg, "MASK_RCNN_EXT.NON_LOCAL.STAGES", ["res4"])
    # Name of timm's feature extractor for `mask_rcnn_ext_timm_backbone` and
    # `mask_rcnn_ext_timm_fpn_backbone`. The number of input channels is the length of
    # `MODEL.PIXEL_MEAN`. Needs `pip install -e ".[timm]"`.
    _declare(cfg, "MASK_RCNN_EXT.TIMM.NAME", "resnet18")
    # Download timm's weights.
    _declare(cfg, "MASK_RCNN_EXT.TIMM.PRETRAINED", False)
    # Channels of the stem of `mask_rcnn_ext_tiny_resnet_backbone` and
    # `mask_rcnn_ext_tiny_resnet_fpn_backbone`, the small ResNet of the configs for the embedded
    # data.
    _declare(cfg, "MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", 32)
    # Channels of res2 to res5 of the small ResNet, which have strides 4, 8, 16 and 32.
    _declare(cfg, "MASK_RCNN_EXT.TINY_RESNET.CHANNELS", [32, 64, 128, 256])
    # Basic blocks in each stage of the small ResNet. The default is ResNet-18's layout.
    _declare(cfg, "MASK_RCNN_EXT.TINY_RESNET.BLOCKS", [2, 2, 2, 2])
    # Normalisation layers of the small ResNet.
    _declare(cfg, "MASK_RCNN_EXT.TINY_RESNET.NORM", "BN")
    # 2: res4 and the layers after it keep the resolution of res3 (stride 8), for heads on C4 and
    # C5. With `MODEL.RESNETS.RES5_DILATION 2` only res5 keeps the resolution of res4 (stride 16).
    _declare(cfg, "MASK_RCNN_EXT.TINY_RESNET.RES4_DILATION", 1)
