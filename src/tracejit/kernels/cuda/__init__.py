"""What kernel text for a GPU says beyond the CPU's language: places of threads, global memory, barriers, block folds.

In: scalars of a kernel. Out: LLVM code for the NVPTX target.
Must not know: grids, launches, the driver. On a CPU none of these names has a meaning.
"""
