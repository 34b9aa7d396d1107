"""HTTP in, a reply in your voice out. Never imports training; meets it in the adapter store."""
