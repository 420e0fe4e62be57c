"""The ground floor: what a version is, where it is kept, and who may move `production`.

Every other part may import this one; it imports the standard library and msgspec only.
"""
