"""Processor time a request: of the service, of a no-op and of other services."""
