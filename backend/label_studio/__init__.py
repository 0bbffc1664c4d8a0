"""Label Studio: its HTTP API, and its webhooks to us."""
