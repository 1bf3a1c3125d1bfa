"""The demo: three models trained on handwritten digits, eagerly and compiled, from the same seed.

In: the UCI digits that scikit-learn ships. Out: a table, a plot, and exit code 1 if a single bit differs.
Run it with `python -m tracejit.tools.demo`.
"""
