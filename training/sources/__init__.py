"""Where a table comes from: a wheel on the package index, Kaggle, or a file, folder or URL.

Every source is a `Fetcher` (download.py). A source only fetches and verifies; the ETL reads the bytes, and
`training.data.fetch` decides when to fetch.
"""
