"""Tests for your own codecs (`contracts`) and examples for your own property tests (`strategies`)."""
