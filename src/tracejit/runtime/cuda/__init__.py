"""A GPU's side of the runtime: the driver, memory, programs.

In: kernels as text, addresses in the device's memory. Out: what they compute, in the order in which it was asked for.
Must not know: tensors, plans, what a kernel computes.
"""
