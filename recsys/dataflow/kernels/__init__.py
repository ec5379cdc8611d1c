"""Look-up kernels: an obvious one in torch, one in C++ for CPUs, and an adapter to FBGEMM."""
