"""The gateway in a world of its own: virtual time, drawn faults, the same again for the same seed.

Real are dispatch, retry, policy, queue (on a real SQLite file), receipts, connections and providers. Simulated are
time, chance, threads, the network, the services, the disk's room, and the life and death of processes.
`python -m tests.simulation SEED` plays one run and tells what happens in it; `python -m tests.simulation SEED COUNT`
plays many.
"""
