"""What every part stands on: files, settings, processors, logs, progress, stages, the edge of a command.

Nothing here knows what a model is.
"""
