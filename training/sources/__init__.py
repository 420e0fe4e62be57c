"""Where a table comes from: a wheel on the package index, Kaggle, or a file, folder or URL.

Every source is a `Fetcher` (protocol.py). A source only fetches and verifies; what the bytes mean
is the ETL's matter, and when to fetch is `training.data.fetch`'s.
"""
