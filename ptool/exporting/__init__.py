"""A run's model in the forms that other tools load."""
