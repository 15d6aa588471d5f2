import numpy as np
import pytest
from PIL import Image
from support import REPO, run_script, write_coco
from tiny_model import picture, tiny_cfg

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.data.bands import read_bands
from mask_rcnn_ext.data.images import read_bgr
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.data.pixel_limit import get_pixel_limit, set_pixel_limit
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.prediction.image_files import find_images, predict_files

H, W = 30, 40
RAISE = "MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS"


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    Image.fromarray(picture(H, W)).save(path)
    return path


def test_the_limit_can_be_raised_and_zero_leaves_it(image):
    set_pixel_limit(0)
    assert get_pixel_limit() == H * W - 2
    with pytest.raises(UserError, match=f"1,200 pixels, more than the limit of 1,198.*{RAISE}"):
        read_bgr(image)
    set_pixel_limit(H * W)
    assert read_bgr(image).shape == (H, W, 3)
    with pytest.raises(UserError, match=f"{RAISE}: expected a number of pixels, or 0"):
        set_pixel_limit(-1)


def write_array(path):
    array = np.zeros((H, W, 3), np.uint16)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        pytest.importorskip("tifffile").imwrite(path, array, photometric="rgb", compression="zlib")
    else:
        import cv2

        cv2.imwrite(str(path), array)


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.png"])
def test_arrays_have_the_same_limit(tmp_path, name):
    write_array(tmp_path / name)
    with pytest.raises(UserError, match=f"1,200 pixels, more than the limit of 1,198.*{RAISE}"):
        read_bands(tmp_path / name, 3)
    set_pixel_limit(H * W)
    assert read_bands(tmp_path / name, 3).shape == (H, W, 3)


def test_the_sparse_file_of_a_huge_array_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.npy"
    head = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**5, 3)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        file.truncate(8 * 3 * 10**11 + 1000)
    with pytest.raises(UserError, match=f"100,000,000,000 pixels, more than the limit.*{RAISE}"):
        read_bands(path, 3)


def test_the_mapper_takes_the_limit_of_its_config_into_its_process(image):
    cfg = tiny_cfg()
    cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS = H * W
    mapper = ImageMapper(cfg, is_train=False)
    record = {"file_name": str(image), "height": H, "width": W}
    with pytest.raises(UserError, match=RAISE):
        ImageMapper(tiny_cfg(), is_train=False)(record)
    assert mapper(record)["image"].shape[0] == 3


def test_masks_that_would_fill_the_memory_are_not_unpacked(tiny_weights, image):
    cfg = tiny_cfg()
    cfg.TEST.DETECTIONS_PER_IMAGE = 40
    cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS = H * W
    predictor = Predictor(cfg, tiny_weights)
    found = next(predictor.stream_packed([image]))
    assert len(found) > 32
    said = rf"{len(found)} masks of 40 x 30 pixels would take 0.0 GB.*stream_packed.*{RAISE}"
    with pytest.raises(UserError, match=said):
        predictor(image)
    cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS = len(found) * H * W // 32 + 2
    assert Predictor(cfg, tiny_weights)(image).pred_masks.shape == (len(found), H, W)


def test_a_batch_has_no_more_pixels_than_one_image_may_have(tiny_weights, image, monkeypatch):
    for name in "bcde":
        Image.fromarray(picture(H, W)).save(image.with_name(f"{name}.png"))
    predictor, sizes = Predictor(tiny_cfg(), tiny_weights), []
    run = predictor.stream_packed

    def spy(images):
        images = list(images)
        sizes.append(len(images))
        return run(images)

    monkeypatch.setattr(predictor, "stream_packed", spy)
    set_pixel_limit(2 * H * W)
    failed = []
    files = find_images([str(image.parent)])
    found = list(predict_files(predictor, files, lambda *failure: failed.append(failure)))
    assert (failed, [file.name[0] for file, _, _ in found]) == ([], list("abcde"))
    assert [size for size in sizes if size] == [2, 2, 1]


@pytest.mark.parametrize("tool", ["check_dataset", "preview_dataset"])
def test_tools_without_a_config_have_an_option(tool, tmp_path, monkeypatch, capsys):
    json_file, images = write_coco(tmp_path / "train", images=1, size=(400, 300))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 59_999)  # Pillow's text has the same limit
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(REPO / "tools"))
    names = {"check_dataset": ("--train-json", "--train-images")}.get(tool, ("--json", "--images"))
    given = [names[0], str(json_file), names[1], str(images)]
    script = REPO / "tools" / f"{tool}.py"
    assert run_script(script, monkeypatch, *given) != 0
    said = capsys.readouterr()
    assert "120,000 pixels, more than the limit of 119,998" in said.out + said.err
    assert run_script(script, monkeypatch, *given, "--max-image-pixels", "120000") == 0
