"""The graph of a program: interned nodes of op records.

In: records and shapes. Out: graphs that print as Python, parse back, check and run in the reference
interpreter. Must not know: how anything is scheduled, generated or run fast; tensors and traces.
"""
