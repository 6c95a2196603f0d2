"""Images and labels: where they come from, the long tail, and how they reach the device."""
