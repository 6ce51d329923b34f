"""Readers that make a :class:`~steelyard.workload.tensor_graph.TensorGraph`: torch modules, ONNX and kept files."""
