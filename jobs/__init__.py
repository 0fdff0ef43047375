"""What runs on the cluster: data, method, training, tracking. Never imports `service`."""
