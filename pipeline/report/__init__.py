"""The report: one HTML file that holds everything, made of what the store has."""
