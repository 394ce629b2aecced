"""Networks from a view (N, T, V*C*M) to features of every frame (N, T, F)."""
