# SPDX-License-Identifier: GPL-2.0-or-later
"""X.509 certificates for TLS, by GnuTLS' certtool: an authority, and a host that it has signed."""

import os
import subprocess


class CannotMake(Exception):
    """What certtool said."""


def make_certificates(directory, names=(), addresses=()):
    """An authority and a host that is server and client, in a directory as QEMU's tls-creds-x509 wants it.

    names, addresses    what the host is called: DNS names and IP addresses
    """
    os.makedirs(directory, exist_ok=True)

    def certtool(*words):
        done = subprocess.run(['certtool', *words], check=False, timeout=60, cwd=directory, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise CannotMake(f'certtool: {done.stdout}')

    def template(name, *lines):
        with open(os.path.join(directory, name), 'w', encoding='ascii') as f:
            f.write('\n'.join(('expiration_days = 30', *lines)) + '\n')

    template('ca', 'cn = "authority"', 'ca', 'cert_signing_key')
    template('host', 'cn = "host"', 'tls_www_server', 'tls_www_client', 'signing_key', 'encryption_key',
             *(f'dns_name = "{name}"' for name in names), *(f'ip_address = "{address}"' for address in addresses))
    for name in ('ca', 'host'):
        certtool('--generate-privkey', '--ecc', '--outfile', f'{name}-key.pem')
    certtool('--generate-self-signed', '--template', 'ca', '--load-privkey', 'ca-key.pem',
             '--outfile', 'ca-cert.pem')
    certtool('--generate-certificate', '--template', 'host', '--load-privkey', 'host-key.pem',
             '--load-ca-certificate', 'ca-cert.pem', '--load-ca-privkey', 'ca-key.pem', '--outfile', 'host-cert.pem')
    for role in ('server', 'client'):
        for kind in ('cert', 'key'):
            link = os.path.join(directory, f'{role}-{kind}.pem')
            if not os.path.exists(link):
                os.link(os.path.join(directory, f'host-{kind}.pem'), link)
