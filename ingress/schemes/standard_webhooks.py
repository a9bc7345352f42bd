"""Standard Webhooks (OpenAI, Svix, Clerk, Resend and many others), `v1` (HMAC) and `v1a` (Ed25519).

`webhook-signature` holds items `v1,<base64>` and `v1a,<base64>` of `{webhook-id}.{webhook-timestamp}.{body}`. A secret
`whsec_...` checks the first, a public key `whpk_...` the second. Svix' own header names are understood too. The id is
signed, and so it is the event's identity.
"""

from ingress.schemes.declared import declare

SCHEME = declare(
    header=["webhook-signature", "svix-signature"],
    algorithm="hmac-sha256",
    encoding="base64",
    prefix="v1,",
    ed25519_prefix="v1a,",
    separator=" ",
    content="{id}.{timestamp}.{body}",
    id=["webhook-id", "svix-id"],
    timestamp=["webhook-timestamp", "svix-timestamp"],
    key="whsec",
)
verify, sign = SCHEME.verify, SCHEME.sign
