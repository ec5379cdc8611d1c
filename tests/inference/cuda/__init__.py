"""Sessions on a GPU; without one its kernels run in Triton's interpreter, and nothing is captured."""
