"""Keeping Label Studio and this backend in agreement."""
