"""Staged smoke tests: a plan's stages run one after another under the supervisor, and are judged."""
