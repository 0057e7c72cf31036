"""Receipts told to whoever an app names: Standard Webhooks, signed, over days if need be.

`settings` says to whom, `signing` makes the signatures, `store` keeps how far each endpoint is and what it has not
taken, `courier` tells one endpoint, and `service` runs all of them and does what operators ask for.
"""
