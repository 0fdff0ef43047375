"""The whole service on one machine: MLflow, Ray, leader, API and S3 as supervised processes."""
