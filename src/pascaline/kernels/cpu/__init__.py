"""Native CPU kernels: C++ sources, the libraries built from them, and the way to call those."""
