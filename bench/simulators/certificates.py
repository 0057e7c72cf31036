"""A certificate authority for loopback: the simulators' TLS, and client certificates for mutual TLS."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .credentials import private_pem, write_secret

DAY = datetime.timedelta(days=1)


class Certificates(NamedTuple):
    """Paths of PEM files. Clients trust `ca_file`."""

    ca_file: Path
    ca_key_file: Path
    certificate_file: Path
    """The leaf for localhost, 127.0.0.1 and ::1."""
    key_file: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """The authority and leaf of a folder; made when they are not there yet, so that processes can share them."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = cls(folder / "ca.pem", folder / "ca-key.pem", folder / "server.pem", folder / "server-key.pem")
        if not all(path.exists() for path in paths):
            paths._create()
        return paths

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Carillon simulators")
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        authority = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_secret(self.ca_key_file, private_pem(key))
        self.ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        alternatives = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.IPAddress(ipaddress.ip_address("::1")),
            ]
        )
        self._issue(
            _name("localhost"), ExtendedKeyUsageOID.SERVER_AUTH, alternatives, self.certificate_file, self.key_file
        )

    def client(self, bundle_id: str, folder: Path, *, days: float = 365) -> tuple[Path, Path]:
        """A client certificate (chain, key) for an app, its UID being the bundle id as in Apple's.

        It was valid from yesterday on and ends in so many days.
        """
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.USER_ID, bundle_id),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {bundle_id}"),
            ]
        )
        chain, key_file = folder / f"{bundle_id}.pem", folder / f"{bundle_id}-key.pem"
        self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, None, chain, key_file, days)
        return chain, key_file

    def _issue(
        self,
        name: x509.Name,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None,
        certificate_file: Path,
        key_file: Path,
        days: float = 365,
    ) -> None:
        authority = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        signer = serialization.load_pem_private_key(self.ca_key_file.read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)  # `_create` wrote it
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(name, authority.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        write_secret(key_file, private_pem(key))
        certificate_file.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        """TLS for a listener that offers these ALPN protocols; asks for a client certificate, requires none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate_file, self.key_file)
        context.load_verify_locations(self.ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(list(protocols))
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float = 365
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + days * DAY)
    )
