"""Documents as columns: one UTF-8 buffer, offsets, and the compiled kernels that measure them."""
