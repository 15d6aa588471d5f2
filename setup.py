"""What pyproject.toml cannot say: the folder `configs/` is installed as `mask_rcnn_ext/configs/`.

Everything else is in pyproject.toml. Nothing is imported here but setuptools, so that the package
builds without torch.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mask_rcnn_ext", "mask_rcnn_ext.*"]),
        "mask_rcnn_ext.configs",
    ],
    package_dir={"mask_rcnn_ext.configs": "configs"},
    package_data={
        "mask_rcnn_ext": ["py.typed"],
        "mask_rcnn_ext.configs": ["**/*.yaml"],
        "mask_rcnn_ext.report": ["templates/*"],
    },
    include_package_data=False,  # only the files named above
)
