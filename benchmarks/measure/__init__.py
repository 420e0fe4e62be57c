"""What is measured: services under test, the Locust process that drives them, requests and restarts."""
