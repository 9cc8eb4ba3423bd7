"""What ours costs, beside the floor and beside others."""
