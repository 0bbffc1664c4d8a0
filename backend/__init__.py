"""Speaks to Label Studio: predictions, webhooks, image downloads, operations pages, command line."""

import os

# Read by numpy when it is imported. One thread for each product, because requests run beside each other anyway.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
