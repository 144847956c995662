"""Tensors in, tensors out: no network, no clock, no environment, no database, no page."""
