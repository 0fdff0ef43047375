"""The HTTP API: the contract's messages as JSON under /v1, for whoever brings a token."""
