"""Services under test and the Locust process that drives them."""
