"""What can be asked of raw archives and stores, beside their conversion."""
