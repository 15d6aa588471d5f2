"""Writes a trained model as ONNX or OpenVINO, and checks that it finds what the model finds."""
