"""Who did what to the gateway: credentials, keys, cancellations, replays, settings."""
