"""Texts and labels that jobs run on, and where they are kept."""

from deltagram.data.packages import TextClassification, Texts, minilm, reuters_r8, rotten_tomatoes

__all__ = ["TextClassification", "Texts", "minilm", "reuters_r8", "rotten_tomatoes"]
