"""What is tried and how long it is: decides from rows; knows no model, no cluster, no clock."""
