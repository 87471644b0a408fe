"""
Tests for L{txmongokit.web}.
"""
