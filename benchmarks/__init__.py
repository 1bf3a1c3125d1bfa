"""Workloads that `tracejit bench` times: the same computation in tracejit, PyTorch and JAX.

`workloads.py` says what is computed and on which data; `in_<framework>.py` say how, each in its framework's own way.
"""
