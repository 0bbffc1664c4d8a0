"""Logins and limits on wrong passwords."""
