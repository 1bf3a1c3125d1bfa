"""Replay: calls of a compiled function that run without the function's Python.

In: a function, the state of the world before a call, and the trace tree. Out: a proof that the call does nothing
but tensor operations and a known list of changes, and straight-line text that does the same.
Must not know: how programs are planned or built, and what an optimizer or a module is: their Python is read as any
other.
"""
