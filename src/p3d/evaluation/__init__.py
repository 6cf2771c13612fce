"""Networks measured on data sets."""
