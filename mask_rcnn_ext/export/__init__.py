"""Writes a trained model as ONNX or OpenVINO, and checks that it gives the same detections."""
