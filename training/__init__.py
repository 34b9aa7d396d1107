"""Message history -> JSONL -> adapter. The files in the order they run: sources/, history, dataset, finetune,
evaluate, publish. Never imports the service."""
