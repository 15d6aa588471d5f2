"""A config file is given by its path, or by the name of one of our configs."""

import pytest
from support import REPO

from mask_rcnn_ext import UserError
from mask_rcnn_ext.config_files import find_config_file


def test_a_config_file_has_a_path_or_our_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = str(REPO / "configs/shapes/mask_rcnn_tiny_FPN.yaml")
    for name in ("shapes/mask_rcnn_tiny_FPN", "shapes/mask_rcnn_tiny_FPN.yaml", ours):
        assert find_config_file(name) == ours
    (tmp_path / "mask_rcnn_R50_FPN.yaml").write_text("")
    name = "mask_rcnn_R50_FPN.yaml"
    assert find_config_file(name) == name  # her own file comes first
    with pytest.raises(UserError, match=r"did you mean 'mask_rcnn_R50_FPN', 'keypoints/.* or 'abl"):
        find_config_file("r50_fpn")
    with pytest.raises(UserError, match=r"\); mask-rcnn-ext configs lists the names$"):
        find_config_file("WRONG")
    with pytest.raises(UserError, match=r"not found: .* \(looked from /.*; did you mean 'mask_rc"):
        find_config_file("configs/mask_rcnn_R50_FPN.yaml")
