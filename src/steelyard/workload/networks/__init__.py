"""Network families: from a few parameters to a graph of tensors, without any framework.

A family is a frozen dataclass of its parameters with a method ``build(net, size)``: it appends its layers to a
:class:`~steelyard.workload.networks.builder.Builder` and returns its answer. ``size`` is ``(height, width)`` of images,
``(tokens,)`` or ``(frames,)`` of sequences. A package adds one by an entry point in the group ``steelyard.networks``;
named networks are rows of a catalogue's folder ``nets``. See :mod:`steelyard.workload.nets`.
"""
