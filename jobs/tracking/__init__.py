"""MLflow: the local server, runs that survive restarts and outages, and encoders as registered models.

Importing this package, or any module of it but `encoders`, imports neither torch nor MLflow.
"""
