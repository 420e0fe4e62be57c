"""The ETL beside a bare copy and beside pandas."""
