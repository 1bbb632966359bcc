"""Papers whose claims are held against what this library measures: settings and claims as data."""

from deltagram.papers.reproduce import PAPERS, reproduce

__all__ = ["PAPERS", "reproduce"]
