"""A process beside the first rank: states of a run to whole checkpoints, and whose right it is to write them."""
