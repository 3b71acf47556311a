# SPDX-License-Identifier: Apache-2.0
"""Authorities and certificates for tests, made in memory."""
import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def key_pem(key, passphrase=None):
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Pair:
    """A certificate and its key; .cert and .key are PEM."""

    def __init__(self, certificate, private):
        self.certificate, self.private = certificate, private
        self.cert, self.key = certificate.public_bytes(serialization.Encoding.PEM), key_pem(private)

    def write(self, folder, name):
        """Writes NAME.crt and NAME.key; returns their paths."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, data in zip(paths, (self.cert, self.key)):
            path.write_bytes(data)
            path.chmod(0o600)
        return paths


class Authority(Pair):
    def __init__(self, name="test authority", parent=None, **when):
        super().__init__(*_sign(name, parent, True, (), **when))

    def issue(self, name, hosts=("localhost", "127.0.0.1"), **options):
        return Pair(*_sign(name, self, False, hosts, **options))


def _sign(name, issuer, is_authority, hosts, begin=NOW - DAY, end=NOW + 30 * DAY, rsa_bits=None):
    private = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (x509.CertificateBuilder().subject_name(subject).public_key(private.public_key())
               .issuer_name(issuer.certificate.subject if issuer else subject)
               .serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
               .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), critical=False)
    return builder.sign(issuer.private if issuer else private, hashes.SHA256()), private


def _general_name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
