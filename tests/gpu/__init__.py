"""What can be proved about GPUs without one: kernels compiled ahead of time, CUDA code paths on pretended devices."""
