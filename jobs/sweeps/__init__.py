"""Sweeps: Ray Tune over a run's options, with a ledger of our own that outlives every process."""
