"""Packages and package data. pyproject.toml has everything else.

pyproject.toml cannot install the folder `configs/` as `mask_rcnn_ext/configs/`, nor `tools/` as
`mask_rcnn_ext_tools/`. This file imports only setuptools, so that the package builds without torch.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mask_rcnn_ext", "mask_rcnn_ext.*"]),
        "mask_rcnn_ext.configs",
        "mask_rcnn_ext_tools",
        "mask_rcnn_ext_tools.benchmarking",
        "mask_rcnn_ext_tools.command_line",
        "mask_rcnn_ext_tools.environment",
    ],
    package_dir={"mask_rcnn_ext.configs": "configs", "mask_rcnn_ext_tools": "tools"},
    package_data={
        "mask_rcnn_ext": ["py.typed"],
        "mask_rcnn_ext.configs": ["**/*.yaml"],
        "mask_rcnn_ext.prediction": ["templates/*"],
        "mask_rcnn_ext.report": ["templates/*"],
    },
    include_package_data=False,  # only the files listed above
)
