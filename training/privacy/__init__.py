"""Private data: found by rules (``find``) or named by the user (``block_list``), and what becomes of it (``rules``)."""
