"""Programs around the library: the demo, the benchmark runner and the self-test.

In: the public interface of tracejit. Out: tables, files and exit codes.
Must not know: how graphs, plans or kernels are made; only what `explain` says about them.
"""
