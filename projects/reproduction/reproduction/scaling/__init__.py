"""Tests of several nodes and of many images, on one machine."""
