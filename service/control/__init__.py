"""The service itself: the contract carried out over the store, the folders of runs, and MLflow."""
