"""What signs the apps' requests."""

from gateway.credentials.store import CredentialsError, CredentialStore, Line, Signing, Tally

__all__ = ["CredentialStore", "CredentialsError", "Line", "Signing", "Tally"]
