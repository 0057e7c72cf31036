"""What signs the apps' requests."""

from gateway.credentials.store import CredentialsError, CredentialStore

__all__ = ["CredentialStore", "CredentialsError"]
