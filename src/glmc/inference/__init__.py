"""A trained run put to use: predictions for files, calibrated, for other class frequencies."""
