"""`make gpu-check`: everything that only a CUDA card can show, within nine minutes, without a network.

`python -m tests.gpu_check` runs the parts, each in a process of its own: a part that fails, hangs or damages the CUDA
context leaves the others alone. After each part its JSON is in the output folder. `python -m tests.gpu_check.tables`
turns the JSON into the tables of docs/experiments/gpu.md. `--device cpu --rehearse` runs the same code at small sizes
on a CPU, where the CPU rasteriser stands in for gsplat.
"""
