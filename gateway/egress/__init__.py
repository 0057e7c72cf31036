"""Calls to places that a stranger named: push services of subscriptions, receivers of webhooks.

`addresses` says which addresses are anybody's at all, `guard` resolves a name once and connects to what it has
checked, and `web` is HTTP/1.1 behind that guard. Whatever the operator's own settings name needs none of this.
"""
