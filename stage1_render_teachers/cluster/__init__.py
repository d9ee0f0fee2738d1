"""Stage 1 over many machines: worker pools, Slurm jobs, what a worker loads first."""
