"""From groups to kernel text for a GPU: the same members and operations as on the CPU, done by other threads.

In: groups with the memory of their values. Out: `CudaText`s, which say what a launch needs.
Must not know: PTX, the driver, streams, what an operation computes.
"""
