"""A run's network as a file of another engine: SavedModel, frozen graph, ONNX, OpenVINO, TFLite."""
