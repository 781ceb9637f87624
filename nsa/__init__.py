"""Trains a Native Sparse Attention language model."""
