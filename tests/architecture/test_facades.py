"""A package with a façade offers all that its modules define, and nothing that is not there."""

from __future__ import annotations

import importlib
import pkgutil

from harness import evidence


def test_evidence_offers_every_type_of_a_case():
    modules = [
        importlib.import_module(each.name)
        for each in pkgutil.iter_modules(evidence.__path__, f"{evidence.__name__}.")
    ]
    types = {
        name
        for module in modules
        for name, found in vars(module).items()
        if isinstance(found, type) and found.__module__ == module.__name__
    }
    assert types <= set(evidence.__all__)
    assert all(hasattr(evidence, name) for name in evidence.__all__)
