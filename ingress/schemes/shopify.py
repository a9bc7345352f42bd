"""Shopify: `X-Shopify-Hmac-Sha256: <base64 HMAC-SHA256 of the raw body>`, the key is the app's client secret.

The newer "Events" deliveries spell the header without `X-`. No time is signed (the deduplication is the protection
against replays), and none of the other headers: not the topic, the shop, nor the ids.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header=["X-Shopify-Hmac-Sha256", "Shopify-Hmac-Sha256"],
    algorithm="hmac-sha256",
    encoding="base64",
)
verify, sign = SCHEME.verify, SCHEME.sign
