"""The services that ours is measured against, each a program of its own.

They are run as processes, never imported: those with libraries that are not ours run in an
environment of their own (`benchmarks.dev.competitors.environments`). Each is set up as well as its own manual
says, also where its defaults are dearer: uvloop, no access log, one thread a Run, no second process.
"""
