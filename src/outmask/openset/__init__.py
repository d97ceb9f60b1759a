"""From scores and labels to open-set results."""
