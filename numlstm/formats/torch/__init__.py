"""PyTorch's files: the zip archive and the format before 1.6, read by an unpickler that calls nothing."""
