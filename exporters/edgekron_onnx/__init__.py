"""ONNX: exporter and onnxruntime."""
