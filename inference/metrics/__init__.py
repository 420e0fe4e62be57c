"""What is counted, in memory that all workers share, and how far the rows have drifted."""
