"""What training and service must agree on, token for token. Imports neither mlx nor fastapi."""
