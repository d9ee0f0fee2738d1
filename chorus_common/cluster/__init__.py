"""Many independent jobs: worker processes here, Slurm jobs, a dask cluster, and what a worker loads first."""
