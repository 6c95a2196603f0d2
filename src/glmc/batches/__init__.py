"""From rows of an epoch's tables to augmented batches on the device."""
