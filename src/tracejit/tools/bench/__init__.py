"""The benchmark runner: the workloads of a `benchmarks` folder, every framework side by side in one run.

In: a folder with `workloads.py` and `in_<framework>.py`. Out: a table, a JSON file, a verdict against an earlier one.
Each framework runs in a process of its own; rounds are interleaved; results are compared before anything is timed.
Must not know: what a workload computes.
"""
