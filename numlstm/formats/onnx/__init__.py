"""ONNX models: read as protobuf data, constants folded, chains of LSTM nodes joined; and written."""
