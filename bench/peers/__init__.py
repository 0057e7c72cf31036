"""Other people's push clients, each in a small program as its own documentation recommends, for `bench compare`."""
