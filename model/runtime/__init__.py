"""Captioners without torch: encoder and decoder run in ONNX Runtime."""
