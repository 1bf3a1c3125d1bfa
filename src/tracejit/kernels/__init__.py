"""The kernel library: what kernel text calls, and whole kernels for operations that no template covers.

In: addresses, sizes and scalars. Out: numbers in memory, and plans of launches.
Must not know: operations, graphs, tensors, or how a kernel is compiled and launched.
"""
