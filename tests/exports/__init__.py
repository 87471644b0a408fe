"""
The public names of the drivers whose users come to us, and what makes the lists.
"""
