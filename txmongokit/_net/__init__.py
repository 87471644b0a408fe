"""
Everything that touches the network: connecting, pooling, monitoring, running.
"""
