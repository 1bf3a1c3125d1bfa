"""From a graph to a plan: which values share a kernel, in which order kernels run, where values live.

In: a graph. Out: values with their layouts, groups with the reason for every cut, stages, a memory plan.
Must not know: kernel text, numba, threads.
"""
