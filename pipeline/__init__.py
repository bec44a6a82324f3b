"""sigmasweep: train a diffusion model once, sweep its samplers over a cluster, compare them in MLflow."""
