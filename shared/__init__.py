"""What crosses the wire between ingress, workers and deploy, and nothing else."""
