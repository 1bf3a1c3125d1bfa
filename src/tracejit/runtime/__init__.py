"""From kernel text to running code: native code and its cache, the thread team, the program executor.

In: kernel text or library kernel functions, and launches of them on addresses.
Out: kernels with an address, programs that run in one native call, error codes.
Must not know: operations, graphs, tensors, autograd, or why a kernel exists.
"""
