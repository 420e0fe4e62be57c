"""Processor time a request of the service, beside a no-op and other services."""
