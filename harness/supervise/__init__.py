"""Runs a command, watches over it, and leaves nothing behind; never stands in its way."""
