"""The gathered mask predictor: the dense one's losses, gradients and masks, from one class."""

import copy
import threading

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead, build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_model import detect, picture, tiny_cfg, tiny_model

from mask_rcnn_ext.modeling.precision import prepare_model
from mask_rcnn_ext.modeling.roi_heads.gathered_predictor import gather_mask_predictors

CLASSES = 1203
SIZE = (40, 50)
both_heads = pytest.mark.parametrize("name", ["MaskRCNNConvUpsampleHead", "MaskRCNNFCNHead"])


def build_heads(name="MaskRCNNFCNHead", classes=CLASSES, **keys):
    """Return a head with distinct weights for each class, and its gathered copy."""
    cfg = tiny_cfg(classes)
    mask_head = cfg.MODEL.ROI_MASK_HEAD
    mask_head.NAME, mask_head.CONV_DIM, mask_head.NUM_FC, mask_head.FC_DIM = name, 8, 1, 4
    for key, value in keys.items():
        mask_head[key] = value
    torch.manual_seed(0)
    dense = build_mask_head(cfg, ShapeSpec(channels=4, height=7, width=7))
    for parameter in dense.predictor.parameters():
        torch.nn.init.normal_(parameter)
    gathered = copy.deepcopy(dense)
    return dense, gathered, gather_mask_predictors(gathered)


def features(count):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, 7, 7, generator=generator, requires_grad=True)


def images(*counts):
    """Return an image for each count of RoIs, with fields for training and for prediction."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for count in counts:
        low = torch.rand(count, 2, generator=generator) * 20
        boxes = Boxes(torch.cat([low, low + 15], dim=1))
        classes = torch.randint(0, CLASSES, (count,), generator=generator)
        image = Instances(SIZE, proposal_boxes=boxes, pred_boxes=boxes)
        image.gt_classes, image.pred_classes = classes, classes.flip(0)
        image.gt_masks = BitMasks(torch.rand(count, *SIZE, generator=generator) > 0.5)
        found.append(image)
    return found


def train(head, counts):
    x = features(sum(counts))
    head.train()
    with EventStorage() as storage:
        loss = head(x, images(*counts))["loss_mask"]
        loss.backward()
        logged = {name: value for name, (value, _) in storage.latest().items()}
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    return loss.detach(), {**gradients, "input": x.grad}, logged


@both_heads
@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0)], ids=["RoIs", "no RoIs"])
def test_training_is_the_dense_one_up_to_rounding(name, counts):
    dense, gathered, changed = build_heads(name)
    assert changed == 1
    (loss, gradients, logged), (own, own_gradients, own_logged) = (
        train(head, counts) for head in (dense, gathered)
    )
    torch.testing.assert_close(own, loss)
    assert own_logged == pytest.approx(logged)
    assert gradients.keys() == own_gradients.keys()
    for key, gradient in gradients.items():
        assert gradient is not None, key
        torch.testing.assert_close(own_gradients[key], gradient, msg=key)
    assert bool(gradients["predictor.weight"].any()) == any(counts)


@both_heads
def test_prediction_gives_the_masks_of_the_predicted_classes(name):
    dense, gathered, _ = build_heads(name)
    found = []
    for head in (dense, gathered):
        with torch.no_grad():
            instances = head.eval()(features(5), images(2, 0, 3))
        assert [image.pred_masks.shape[0] for image in instances] == [2, 0, 3]
        found.append(torch.cat([image.pred_masks for image in instances]))
    assert found[0].shape == (5, 1, 14, 14)
    torch.testing.assert_close(found[1], found[0])


def test_only_the_masks_of_one_class_are_computed():
    _, gathered, _ = build_heads()
    shapes = []
    gathered.predictor.register_forward_hook(lambda _m, _i, logits: shapes.append(logits.shape))
    train(gathered, (3, 1))
    with pytest.raises(RuntimeError):
        gathered(features(2)[:, :3], images(2))  # an error must not leave the classes behind
    gathered.layers(features(2))
    assert shapes == [(4, 1, 14, 14), (2, CLASSES, 14, 14)]


def test_threads_share_a_head():
    """The classes of one thread are not read by another that runs at the same time."""
    dense, gathered, _ = build_heads()
    meeting = threading.Barrier(2)
    found = {}

    def meet(module, args):
        meeting.wait(120)

    def run(count):
        with torch.no_grad():
            found[count] = gathered(features(count), images(count))[0].pred_masks

    gathered.mask_fcn1.register_forward_pre_hook(meet)
    gathered.eval(), dense.eval()
    threads = [threading.Thread(target=run, args=(count,)) for count in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for count, masks in found.items():
        with torch.no_grad():
            expected = dense(features(count), images(count))[0].pred_masks
        torch.testing.assert_close(masks, expected)
    assert found.keys() == {2, 3}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("MaskRCNNFCNHead", {"LOSS": "softmax"}),
        ("MaskRCNNFCNHead", {"CLS_AGNOSTIC_MASK": True}),
        ("MaskRCNNMLPHead", {}),
    ],
    ids=["softmax", "class-agnostic", "MLP"],
)
def test_other_heads_stay(name, keys):
    dense, gathered, changed = build_heads(name, classes=3, **keys)
    assert changed == 0
    x = features(2)
    assert torch.equal(gathered.layers(x), dense.layers(x))
    assert type(gathered.predictor) is type(dense.predictor)


def test_a_subclass_may_use_the_logits_in_another_way():
    class OwnHead(MaskRCNNConvUpsampleHead):
        pass

    head = OwnHead(ShapeSpec(channels=4), num_classes=3, conv_dims=[8])
    assert gather_mask_predictors(head) == 0


def test_the_key_and_the_names_of_the_weights(caplog):
    cfg = tiny_cfg()
    stock = tiny_model()
    cfg.MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR = True
    model = prepare_model(cfg, build_model(cfg)).eval()
    model.load_state_dict(stock.state_dict())
    model = copy.deepcopy(model)  # as the average of the weights does
    image = {"image": torch.as_tensor(picture(64, 96).transpose(2, 0, 1).copy())}
    shapes = []
    model.roi_heads.mask_head.predictor.register_forward_hook(
        lambda _m, _i, logits: shapes.append(logits.shape[1])
    )
    found, expected = (detect(m, image)[0] for m in (model, stock.eval()))
    assert shapes == [1]
    assert len(found) == 10
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert not caplog.records
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    with caplog.at_level("INFO"):
        prepare_model(cfg, build_model(cfg))
    assert "GATHERED_MASK_PREDICTOR changes nothing" in caplog.text
