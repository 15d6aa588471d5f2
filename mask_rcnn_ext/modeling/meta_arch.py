"""detectron2's `GeneralizedRCNN` with a configurable threshold for pasted masks."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances

from ..errors import UserError

__all__ = ["MaskRCNN"]


@META_ARCH_REGISTRY.register()
class MaskRCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` that pastes masks at `MODEL.ROI_MASK_HEAD.PASTE_THRESH`.

    Paper: section 3.1, "Inference": masks are binarised at 0.5. This is the default, and
    detectron2's fixed value; with it the two classes give the same tensors. Training and state-dict
    keys are detectron2's.

    detectron2's `GeneralizedRCNNWithTTA` accepts this model but pastes masks at 0.5. Another
    wrapper can read the threshold from `mask_threshold`.

    The model can be exported by tracing, as detectron2's `TracingAdapter` does. TorchScript's
    scripting, which `GeneralizedRCNN` allows, does not support `super()`.
    """

    @configurable
    def __init__(self, *, mask_threshold: float = 0.5, **kwargs: Any) -> None:
        """Build the model.

        Args:
            mask_threshold: a pixel belongs to the pasted mask from this probability on.
            kwargs: see `GeneralizedRCNN`.

        Raises:
            UserError: the threshold is not between 0 and 1.
        """
        if not 0 < mask_threshold < 1:
            raise UserError(
                "MODEL.ROI_MASK_HEAD.PASTE_THRESH: expected a probability above 0 and below 1, "
                f"got {mask_threshold}; the paper uses 0.5"
            )
        super().__init__(**kwargs)
        self.mask_threshold = mask_threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read `PASTE_THRESH` and the keys of `GeneralizedRCNN`."""
        return {
            **super().from_config(cfg),
            "mask_threshold": cfg.MODEL.ROI_MASK_HEAD.PASTE_THRESH,
        }

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """See `GeneralizedRCNN.inference`; masks are pasted at `mask_threshold`.

        Returns:
            For each image {"instances": `Instances`} in pixels of the output, `pred_masks` bool,
            (R, height, width). Without `do_postprocess`, the raw `Instances`.
        """
        results = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        if not do_postprocess:
            return results
        processed = []
        for instances, image in zip(results, batched_inputs, strict=True):
            height, width = image["image"].shape[-2:]
            height, width = image.get("height", height), image.get("width", width)
            pasted = detector_postprocess(instances, height, width, self.mask_threshold)
            processed.append({"instances": pasted})
        return processed
