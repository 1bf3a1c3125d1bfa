"""Traces: what a region did, kept as a tree, and the sessions that record and follow it.

In: the calls that tensors make inside a compiled function. Out: graphs for the compiler, programs run in place of
eager kernels, and an account of what happened and why.
Must not know: how a graph is scheduled or generated; modules and optimizers.
"""
