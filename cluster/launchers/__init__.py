"""Slurm and Kubernetes: scripts and manifests that hold a run."""
