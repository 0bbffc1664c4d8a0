"""The whole product beside a real Label Studio on this machine, for a person to try and a program to check."""
