"""Captioners without torch: encoder and decoder run in ONNX Runtime."""

import os

# ONNX Runtime 1.32 sends data about its use to Microsoft, and keeps an id of the device below HOME, unless this is set
# when it is loaded. Every module of ours that loads it is in this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
