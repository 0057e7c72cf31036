"""What `carillon` does, a module for each thing that it is about. `gateway.cli` puts them together."""
