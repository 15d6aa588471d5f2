"""Mask R-CNN and FCIS, small, on the same data: training runs, and what they measured."""
