"""The base of every part: files, settings, processors, logs, stages, the edge of a command.

Nothing here is about models.
"""
