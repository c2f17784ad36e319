"""Selection: choosing one structure per layer for a whole network under budgets."""
