"""The control plane: which runs there are, what state each is in, who may change it, and when one is tried again."""
