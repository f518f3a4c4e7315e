"""CUDA kernels: sources compiled at first use for the very chip, and how they are launched."""
