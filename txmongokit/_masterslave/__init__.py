"""
The parts of L{txmongokit.masterslave}.
"""
