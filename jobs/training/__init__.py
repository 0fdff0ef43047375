"""The loop, its checkpoints, its probes and its health. Knows torch.distributed; knows neither Ray nor MLflow."""
