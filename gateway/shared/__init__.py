"""What machines share at speed: the contract in `base`, Redis or Valkey in `redis`."""
