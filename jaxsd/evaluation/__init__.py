"""Measuring audio encoders."""
