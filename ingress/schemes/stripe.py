"""Stripe: `Stripe-Signature: t=<Unix seconds>,v1=<hex HMAC-SHA256 of {t}.{body}>`, several `v1` during a rotation.

The whole text of the secret, `whsec_` included, is the key. Other items, such as `v0`, are ignored.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header="Stripe-Signature",
    algorithm="hmac-sha256",
    encoding="hex",
    prefix="v1=",
    separator=",",
    content="{timestamp}.{body}",
    timestamp_field="t=",
)
verify, sign = SCHEME.verify, SCHEME.sign
