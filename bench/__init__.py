"""Load, ledgers and the demonstration: everything that measures the gateway from outside.

Nothing here imports the gateway: it is started as a process and spoken to over HTTP, and `bench.simulators` is the
other side of its wire.
"""
