"""A server that breaks RFC 9113 and RFC 7541 in every way there is a name for, and some more."""
