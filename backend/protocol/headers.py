"""Names of the HTTP headers that are our own."""

WEBHOOK_HEADER = "X-Webhook-Secret"
"""Carries WEBHOOK_SECRET: Label Studio's webhooks do not send the login of the backend."""
REQUEST_ID_HEADER = "X-Request-ID"
"""Names a request in our logs; we make an id where a request brings none, and return it in the answer."""
