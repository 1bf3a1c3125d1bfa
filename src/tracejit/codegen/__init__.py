"""From groups to kernel text: one template for each kind of group, never one for an operation.

In: groups with the memory of their values. Out: kernel texts with their arguments, planned library launches.
Must not know: how text becomes native code, threads, tensors.
"""
