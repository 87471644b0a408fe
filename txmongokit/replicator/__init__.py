"""
Copy what happens in one MongoDB deployment to another.

The oplog of the source is read as raw BSON, regrouped into few write
commands, and written together with the position reached in one transaction
of the destination, so that each operation takes effect exactly once.
"""
