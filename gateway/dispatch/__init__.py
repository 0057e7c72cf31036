"""From leased batches to requests and back: flights, lanes, governors, retries.

`dispatcher` leases batches; each becomes a `flight` in the lanes of its route's `sender`, from which the route's
connections pull slices, and goes back to the queue by `returns`. What an answer leads to is decided in `retry`, how
fast a route may go in `governor`, and whether it may go at all in `breaker`.
"""
