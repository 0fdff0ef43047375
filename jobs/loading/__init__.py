"""From shards to batches of decoded pictures, in a process of its own beside each trainer.

`process` is the trainer's side and imports nothing that reads or decodes; `worker` is the process, around `pipeline`.
"""
