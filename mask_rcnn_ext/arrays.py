"""The types of NumPy arrays and colours that several modules use."""

import numpy as np
import numpy.typing as npt

__all__ = ["RGB", "Bools", "Floats", "Floats32", "Ints", "RGBArray", "Weights"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
RGB = tuple[int, int, int]  # a colour, 0 to 255
RGBArray = npt.NDArray[np.uint8]  # (H, W, 3)
Weights = npt.NDArray[np.int32]  # how often a bootstrap draws each item
