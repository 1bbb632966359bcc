"""Losses that shape the geometry of classes; torch is imported when one is asked for."""
