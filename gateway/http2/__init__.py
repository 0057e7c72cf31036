"""An HTTP/2 client for one shape of traffic: many short POSTs, most answered by a bare status.

`protocol` is one connection without IO (RFC 9113), made of `framing` (requests out), `answers` (answers in), `streams`
(how each ends), `windows` and `budget`; `hpack` is RFC 7541. `connection` gives a protocol a socket, `pool` keeps as
many connections as a route needs. Nothing here knows what a notification is: requests come from a `Source` in slices
and go back to it, each exactly once, as one of the lists of `Results`.
"""
