"""An HTTP/2 client for one shape of traffic: many short POSTs, most answered by a bare status.

`hpack` and `protocol` are sans-IO (RFC 7541, RFC 9113), `connection` gives a protocol a socket, `pool` keeps as many
connections as a route needs. Nothing here knows what a notification is: requests come from a `Source` in slices and
go back to it, each exactly once, as one of the lists of `Results`.
"""
