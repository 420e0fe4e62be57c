"""The base: what a version is, where it is stored, and what may move `production`.

Every other part may import this one; it imports the standard library and msgspec only,
and obstore where a bucket is asked for.
"""
