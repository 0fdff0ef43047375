"""Stored shards: their format, their index, and the order of their samples."""
