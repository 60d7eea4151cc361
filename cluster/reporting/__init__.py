"""Data of the command `report`: from results to the values that a report shows."""
