"""Watches, explains and smoke-tests any training process; never imports torch."""
