"""The report of one or more runs as one HTML file that needs no network."""
