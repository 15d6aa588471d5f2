"""R-CNN, Fast, Faster and Mask R-CNN, small, on the same data: runs, and what they measured."""
