"""Models as files that run without paretopress: ONNX, as small as the native file where the format can."""
