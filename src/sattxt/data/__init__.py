"""Files of data sets, read in place."""
