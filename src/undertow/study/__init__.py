"""Studies: planted noise, influence, retraining over a grid of models, tasks, noise and seeds; their tables."""
