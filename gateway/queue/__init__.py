"""Durable work: the contract in `base`, the embedded default in `sqlite`."""
