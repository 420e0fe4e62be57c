"""The services that ours is compared with, each a program of its own.

They are run as processes, never imported: those with libraries that are not ours run in an
environment of their own (`benchmarks.dev.competitors.environments`). Each is set up as its own manual
recommends, also where its defaults cost more: uvloop, no access log, one thread a Run, no second process.
"""
