"""The vocabulary: values without behaviour beyond arithmetic. Imports nothing but errors."""
