"""What a CUDA backend would stand on, measured: ceilings, launches, graphs, compilation, kernels, numerics.

`emit.py` writes kernels as LLVM code and turns them into PTX with llvmlite alone, `kernels.py`, `rows.py` and
`numerics.py` hold kernels, `driver.py` calls the driver, `sections/` measures, `probe.py` runs the sections.
The kernels are trial pieces: nothing of tracejit runs on a GPU.
"""
