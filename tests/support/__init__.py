"""What several tests need; no tests here."""
