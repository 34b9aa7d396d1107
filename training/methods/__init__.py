"""Ways to train an adapter. Whatever a method trains, what it exports is a LoRA or DoRA for the untouched base."""
