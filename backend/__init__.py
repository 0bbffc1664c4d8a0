"""Speaks to Label Studio: predictions, webhooks, image downloads, operations pages, command line."""
