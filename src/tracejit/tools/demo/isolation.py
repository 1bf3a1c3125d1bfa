"""A training run in a process of its own, with kernels of its own."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor

import tracejit as tj
from tracejit.tools.demo import digits
from tracejit.tools.demo.models import MODELS
from tracejit.tools.demo.training import Recipe, Run, train


def job(name: str, recipe: Recipe, compiled: bool, threads: int, quiet: bool) -> Run:
    """One training run, in the process that it is called in."""
    tj.set_num_threads(threads)
    title = f"{name} {'compiled' if compiled else 'eager'}"
    return train(MODELS[name], recipe, digits.load(), compiled=compiled, title=title, quiet=quiet)


def in_own_process(name: str, recipe: Recipe, compiled: bool, threads: int, quiet: bool, warm: bool) -> Run:
    """One training run in a new process."""
    with tempfile.TemporaryDirectory(prefix="tracejit-demo-") as empty:
        before = os.environ.get("TRACEJIT_CACHE_DIR")
        if not warm:
            os.environ["TRACEJIT_CACHE_DIR"] = empty
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                return pool.submit(job, name, recipe, compiled, threads, quiet).result()
        finally:
            if before is not None:
                os.environ["TRACEJIT_CACHE_DIR"] = before
            elif not warm:
                del os.environ["TRACEJIT_CACHE_DIR"]
