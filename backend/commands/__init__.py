"""The subcommands of `captioner`."""
