"""Whom a connection trusts: the machine's authorities, a provider's own, or, where it says so itself, anybody."""

from __future__ import annotations

import ssl


def context_of(ca: str | None = None, any_certificate: bool = False) -> ssl.SSLContext:
    """A context for connections to servers; `ca` is a PEM text of the authorities to trust in place of the machine's.
    With `any_certificate` neither name nor signature is looked at. Raises ssl.SSLError, ValueError for a `ca` that is
    none."""
    if ca is not None and "-----BEGIN CERTIFICATE-----" not in ca:
        raise ValueError("it holds no certificate in PEM")
    context = ssl.create_default_context(cadata=ca)
    if any_certificate:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
