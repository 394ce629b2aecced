"""Encoders for others and from others: safetensors, ONNX, and the released files of PCM3 and CMD."""
